"""Texts and what a scorer says of them, kept in a folder so that each is scored once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diladiff_cli.core.hashing import tensors_hash
from diladiff_cli.errors import writing
from diladiff_cli.integrity import CHECKSUM, json_hash
from diladiff_cli.metrics.scorers import Scorer, Scores
from diladiff_cli.runtime.folders import replacing_file, share
from diladiff_cli.stages.evaluation.sets import Sample

FORMAT_VERSION = 1  # raised when scores of the same tokens change
GIVEN = "texts that were given"


@dataclass(frozen=True)
class Scored:
    """Texts, and what a scorer says of them.

    Attributes:
        texts: With ``text`` and preferably ``token_ids``.
        scores: One for each text; None where there is no scorer, or no text.
        source: What the texts are.
    """

    texts: list[Sample]
    scores: Scores | None
    source: str = GIVEN

    @property
    def features(self) -> Tensor | None:
        """(N, D) what MAUVE compares; None without scores."""
        return None if self.scores is None else self.scores.features


@dataclass(frozen=True)
class Scoring:
    """How texts are scored.

    Attributes:
        scorer: None where nothing is.
        note: Why this scorer, or why none.
        context: The most scorer tokens of a text that count; None for as many as the scorer takes.
        batch_size: Texts per call of the scorer.
        folder: Where scores are kept, and found by later calls; None to keep none.
    """

    scorer: Scorer | None
    note: str = ""
    context: int | None = None
    batch_size: int = 8
    folder: Path | None = None

    @property
    def title(self) -> dict[str, str | None]:
        """What reports say of the scorer; the fingerprint distinguishes those of one name."""
        name, fingerprint = (None, None) if self.scorer is None else (self.scorer.name, self.scorer.fingerprint)
        return {"name": name, "note": self.note, "fingerprint": fingerprint}

    def of(self, texts: list[Sample], progress: Callable[[int], None] | None = None, source: str = GIVEN) -> Scored:
        """Texts with their scores; those of :attr:`folder` where they lie there and are whole.

        A file is named by a hash of the scorer and of the texts in its tokens; one that is damaged is made again.

        Args:
            texts: To score.
            progress: Called with numbers of texts as they have been scored.
            source: What the texts are.

        Raises:
            UserError: The folder cannot be written.
        """
        if self.scorer is None or not texts:
            return Scored(texts, None, source)
        score = self._new if self.folder is None else self._kept
        return Scored(texts, score(self.scorer, [text["text"] for text in texts], progress), source)

    def _new(self, scorer: Scorer, texts: list[str], progress: Callable[[int], None] | None) -> Scores:
        return scorer.score(texts, self.context, self.batch_size, progress)

    def _kept(self, scorer: Scorer, texts: list[str], progress: Callable[[int], None] | None) -> Scores:
        assert self.folder is not None
        ids = scorer.encode(texts, self.context)
        file = self.folder / f"{_key(scorer, ids)}.safetensors"
        scores = _read(file, ids)
        if scores is None:
            scores = self._new(scorer, texts, progress)
            with writing(self.folder):
                _write(file, scores)
        elif progress is not None:
            progress(len(texts))
        return scores


def _write(file: Path, scores: Scores) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(file) as partial:
        kept = {"nlls": torch.cat(scores.nlls), "features": scores.features}
        save_file(kept, partial, {CHECKSUM: tensors_hash(kept)})
        share(partial)


def _key(scorer: Scorer, ids: Sequence[Sequence[int]]) -> str:
    return json_hash([FORMAT_VERSION, scorer.name, scorer.fingerprint, scorer.precision, ids])[:20]


def _read(file: Path, ids: list[list[int]]) -> Scores | None:
    """The scores of texts in the scorer's tokens; None where the file is missing, damaged or of other texts."""
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            if (opened.metadata() or {}).get(CHECKSUM) != tensors_hash(tensors):
                return None
    except (OSError, SafetensorError):
        return None
    return Scores(ids, list(tensors["nlls"].split([max(0, len(row) - 1) for row in ids])), tensors["features"])
