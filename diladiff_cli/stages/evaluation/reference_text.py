"""Chooses the real text that samples are compared with, as ``sample`` chooses its model: the nearest at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from diladiff_cli.data.tokenizer import decode_text, encode_documents, load_tokenizer
from diladiff_cli.data.tokens import TokenData, TokenSplit
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import short_hash
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import Artifact, load_artifact
from diladiff_cli.runtime.model_paths import named_model
from diladiff_cli.stages.common import open_recorded_data
from diladiff_cli.stages.evaluation.sets import Sample, blocks_as_samples, evenly_spaced, reference_samples

SHIPPED = "the held-out text that ships with diladiff"


@dataclass(frozen=True, eq=False)
class ReferenceText:
    """Real text to compare a model's samples with; :func:`reference_text` chooses it.

    Attributes:
        source: What it is, as reports name it; of a data set the same wherever that lies.
        reason: Why it is not what the model learned from; empty where there is nothing to explain.
        tokenizer_name: Names the tokenizer that cuts it; None where that is done by characters.
        tokenizer: The tokenizer itself.
        files: Text sources; none for the text that ships with the package.
        text_field: The field of their JSON and parquet rows.
        blocks: Token blocks to take instead of files.
        place: Folder of the data set that has the blocks; None of other text.
    """

    source: str
    reason: str
    tokenizer_name: str | None
    tokenizer: Any
    files: tuple[str, ...] = ()
    text_field: str = "text"
    blocks: TokenSplit | None = None
    place: Path | None = None

    @property
    def key(self) -> tuple[str, str | None]:
        """Equal where text and tokenizer are."""
        return self.source, self.tokenizer_name

    @property
    def title(self) -> str:
        """What it is, and where."""
        return self.source + ("" if self.place is None else f" in {self.place}")

    @property
    def note(self) -> str:
        """A line that says which text this is."""
        return f"reference: {self.title}" + (f" ({self.reason})" if self.reason else "")

    def for_samples(self, samples: Sequence[Sample]) -> "ReferenceText":
        """This text; one that is cut by characters where the tokenizer did not make the samples, which is said.

        A model may have been trained anew, under another tokenizer, since it drew them.
        """
        ids, text = samples[0].get("token_ids"), samples[0]["text"]
        if self.tokenizer is None or not ids or _decoded(self.tokenizer, ids) == text:
            return self
        reason = "the token ids of the samples are not of their model's tokenizer of today"
        source = self.source if self.files else SHIPPED
        say(f"reference: {source}, cut by characters ({reason})")
        return ReferenceText(source, reason, None, None, self.files, self.text_field)

    def length_of(self, samples: Sequence[Sample]) -> int:
        """The samples' median length: in tokens, or in characters where there is no tokenizer."""
        if self.tokenizer is None:
            return max(1, median_low([len(sample["text"]) for sample in samples]))
        return max(1, median_low([len(self._ids(sample)) for sample in samples]))

    def _ids(self, sample: Sample) -> list[int]:
        return sample.get("token_ids") or encode_documents(self.tokenizer, [sample["text"]])[0][:-1]

    def pieces(self, length: int, n: int) -> list[Sample]:
        """At most ``n`` pieces of ``length`` (at most that of a block), in the order of :func:`evenly_spaced`.

        Raises:
            UserError: A file cannot be read, or the text is shorter than one piece.
        """
        if self.blocks is None:
            return reference_samples(self.tokenizer, length, n, self.files, self.text_field)
        return blocks_as_samples(self.tokenizer, self.blocks.gather(evenly_spaced(len(self.blocks), n))[:, :length])


def reference_text(
    model: str | None, files: Sequence[str] = (), data: Path | None = None, text_field: str = "text"
) -> ReferenceText:
    """The text to compare samples of ``model`` with.

    It is ``files`` where there are any; else the validation split of the data set that the model was trained on, where
    that is still there unchanged; else the text that ships with the package. Files are cut by the model's tokenizer, or
    by characters where that cannot be had.

    Args:
        model: Name of a model, as samples give it; None where they give none.
        files: Text sources.
        data: Token data set to take in place of the one that the model was trained on.
        text_field: The field of JSON and parquet rows of ``files``.

    Raises:
        UserError: ``data`` was given and is not of the model's tokenizer and length, or holds nothing out.
    """
    folder = _folder(model)
    artifact, tokenizer = (None, None) if folder is None else (_artifact(folder), _tokenizer(folder))
    # A data set's fingerprint covers its tokenizer, which all models of that data set share.
    tokenizer_name = (
        None if tokenizer is None else str((artifact.data.get("fingerprint") if artifact else None) or model)
    )
    if files:
        return ReferenceText(", ".join(files), "", tokenizer_name, tokenizer, tuple(files), text_field)
    reason = ""
    if artifact is not None and tokenizer is not None:
        try:
            tokens, blocks = held_out(artifact, data)
        except UserError as error:
            if data is not None:
                raise
            reason = error.what
        else:
            source = f"the validation split of data set {short_hash(tokens.fingerprint)}"
            return ReferenceText(source, "", tokenizer_name, tokenizer, blocks=blocks, place=tokens.path.resolve())
    return ReferenceText(SHIPPED, reason, tokenizer_name, tokenizer)


def held_out(artifact: Artifact, data: Path | None = None) -> tuple[TokenData, TokenSplit]:
    """The data set given, else the one that an artifact was trained on, and the blocks that it held out.

    Raises:
        UserError: The data set is missing or damaged, was changed since, or held nothing out.
    """
    if data is None and "path" not in artifact.data:
        raise UserError(f"{artifact.path} names no data set", "name a text with --reference")
    try:
        tokens = open_recorded_data(artifact, data)
    except UserError as error:
        if data is not None:
            raise
        raise UserError(error.what, "name a text with --reference") from error
    blocks = tokens.split("valid")
    if not len(blocks):
        raise UserError(f"{tokens.path} holds no text out for validation", "name a text with --reference")
    return tokens, blocks


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str | None:
    try:
        return decode_text(tokenizer, ids)
    except (TypeError, ValueError, OverflowError):  # of ids that it does not have
        return None


def _folder(model: str | None) -> Path | None:
    """Where a model should lie, by the name that samples give."""
    try:
        return None if model is None else named_model(model, offline=True)  # nobody asked for a download
    except (UserError, ValueError):  # shipped, of another installation, or on the Hub; or no name of a file at all
        return None


def _artifact(folder: Path) -> Artifact | None:
    try:
        return load_artifact(folder)
    except UserError:
        return None


def _tokenizer(folder: Path) -> Any:
    if not folder.is_dir():  # what is not a folder would be looked up on the Hub
        return None
    try:
        return load_tokenizer(folder)
    except UserError:
        return None
