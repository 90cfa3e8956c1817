"""Scores kept in a folder, so that texts are scored once, whatever they are compared with."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diladiff_cli.core.hashing import tensors_hash
from diladiff_cli.errors import writing
from diladiff_cli.integrity import CHECKSUM
from diladiff_cli.metrics.scorers import Scorer, Scores
from diladiff_cli.runtime.folders import replacing_file, share
from diladiff_cli.stages.eval_samples import score_texts
from diladiff_cli.stages.sample_sets import Sample

FORMAT_VERSION = 1  # raised when scores of the same tokens change


def kept_scores(
    folder: Path | None,
    texts: list[Sample] | None,
    scorer: Scorer | None,
    context: int | None = None,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Scores | None:
    """What :func:`score_texts` finds, read from a file in ``folder`` where it was found before.

    A file is named by a hash of the scorer and of the texts in its tokens; one that is damaged is made again.

    Raises:
        UserError: The folder cannot be written.
    """
    if folder is None or scorer is None or not texts:
        return score_texts(texts, scorer, context, batch_size, progress)
    ids = scorer.encode([text["text"] for text in texts], context)
    file = folder / f"{_key(scorer, ids)}.safetensors"
    scores = _read(file, ids)
    if scores is not None:
        if progress is not None:
            progress(len(texts))
        return scores
    scores = score_texts(texts, scorer, context, batch_size, progress)
    assert scores is not None  # there are texts and a scorer
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing_file(file) as partial:
            kept = {"nlls": torch.cat(scores.nlls), "features": scores.features}
            save_file(kept, partial, {CHECKSUM: tensors_hash(kept)})
            share(partial)
    return scores


def _key(scorer: Scorer, ids: Sequence[Sequence[int]]) -> str:
    content = json.dumps([FORMAT_VERSION, scorer.name, scorer.fingerprint, scorer.precision, ids])
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _read(file: Path, ids: list[list[int]]) -> Scores | None:
    """The scores of texts in the scorer's tokens; None where the file is missing, damaged or of other texts."""
    try:
        with safe_open(file, "pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            if (opened.metadata() or {}).get(CHECKSUM) != tensors_hash(found):
                return None
    except (OSError, SafetensorError):
        return None
    return Scores(ids, list(found["nlls"].split([max(0, len(row) - 1) for row in ids])), found["features"])
