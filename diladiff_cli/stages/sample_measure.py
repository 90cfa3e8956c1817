"""Sets of samples -> reports, with one scorer for all of them and the reference text that belongs to each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from diladiff_cli.config import EvalConfig
from diladiff_cli.metrics.mauve import mauve_score
from diladiff_cli.metrics.scorers import Scorer, Scores, load_scorer
from diladiff_cli.notes import say
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.stages.eval_samples import evaluate_groups
from diladiff_cli.stages.kept_scores import kept_scores
from diladiff_cli.stages.reference_text import ReferenceText, reference_text
from diladiff_cli.stages.sample_sets import Sample, group_samples
from diladiff_cli.stages.sampler import sampling_device

Report = dict[str, Any]


@dataclass(frozen=True)
class _Reference:
    """Pieces of real text, and what the scorer says of them."""

    source: str
    pieces: list[Sample]
    scores: Scores | None


@dataclass(frozen=True)
class SampleMeasure:
    """Measures sets of samples, with one scorer for all of them, and each reference scored once.

    Attributes:
        config: Scorer and batches.
        files: Reference text; none for what :func:`reference_text` finds.
        data: Token data set whose held-out blocks are the reference; None for the one that each model was trained on.
        keep: Folder for the scores of all texts, which later calls take from there; None to keep none.
    """

    config: EvalConfig
    files: tuple[str, ...] = ()
    data: Path | None = None
    keep: Path | None = None
    _texts: dict[str | None, ReferenceText] = field(default_factory=dict, init=False, repr=False)
    _references: dict[Any, _Reference] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def scorer(self) -> tuple[Scorer | None, str]:
        """The scorer and why this one."""
        return load_scorer(self.config.scorer, sampling_device(), self.config.precision)

    def reports(self, samples: list[Sample]) -> Iterator[Report]:
        """One report for each way of sampling."""
        together: dict[Any, tuple[ReferenceText, int, list[Sample]]] = {}
        for group in group_samples(samples):  # those of one text and length share a reference
            text = self.text(group[0].get("model"))
            length = text.length_of(group)
            # Pieces are spread over the text as it suits so many samples.
            together.setdefault((text.key, length, len(group)), (text, length, []))[2].extend(group)
        for text, length, found in together.values():
            yield from self._measure(found, text, length)

    def pooled_mauve(self, sets: Sequence[list[Sample]]) -> Report:
        """MAUVE of sets of samples of one model taken together, beside as many pieces of the reference.

        Returns:
            As :func:`mauve_score`, with the names of ``scorer`` and ``source`` (the reference), and ``reference``: that
            of further pieces, where there are so many.
        """
        n = sum(map(len, sets))
        text, (scorer, _) = self.text(sets[0][0].get("model")), self.scorer
        pieces = text.pieces(text.length_of([sample for one in sets for sample in one]), 2 * n)
        names = {"source": text.source, "scorer": scorer.name if scorer else None}
        found = [scores.features for scores in self._scores(*sets, pieces) if scores is not None]
        if len(found) <= len(sets):
            return mauve_score(None, None) | names
        target, rest = found[-1][:n], found[-1][n:]
        reference = mauve_score(rest, target)["value"] if len(rest) == n else None
        return mauve_score(torch.cat(found[:-1]), target) | names | {"reference": reference}

    def _scores(self, *groups: list[Sample]) -> list[Scores | None]:
        """What the scorer says of groups of texts, kept or new."""
        scorer, _ = self.scorer
        with self._bar(sum(map(len, groups))) as bar:
            options = self._options(bar)
            return [kept_scores(self.keep, group, scorer, **options) for group in groups]

    def _bar(self, total: int) -> Bar:
        """Counts texts, those of the reference included; nothing without a scorer."""
        scorer, _ = self.scorer
        title = f"scoring by {scorer.name}" if scorer else "scoring"
        return Bar(title, total, enabled=scorer is not None, patient=True)

    def _options(self, bar: Bar) -> dict[str, Any]:
        """How texts are scored, and told of as they are."""
        return {
            "context": self.config.context or None,
            "batch_size": self.config.batch_size,
            "progress": lambda texts: bar.update(texts, "texts"),
        }

    def text(self, model: Any) -> ReferenceText:
        """The reference of a model's samples; says on stderr which, once."""
        name = model if isinstance(model, str) and model else None
        if name not in self._texts:
            text = reference_text(name, self.files, self.data)
            if text.note not in [other.note for other in self._texts.values()]:
                say(text.note)
            self._texts[name] = text
        return self._texts[name]

    def _measure(self, samples: list[Sample], text: ReferenceText, length: int) -> list[Report]:
        """Reports of ways of sampling with equally many samples."""
        # Twice as many, so that one half of the real text can be measured against the other.
        n = 2 * len(group_samples(samples)[0])
        key = (text.key, length, n)
        known = self._references.get(key)
        pieces = text.pieces(length, n) if known is None else known.pieces
        scorer, note = self.scorer
        score = partial(kept_scores, self.keep)
        total = len(samples) + (len(pieces) if known is None else 0)
        with self._bar(total) as bar:
            options = self._options(bar)
            if known is None:
                known = _Reference(text.source, pieces, score(pieces, scorer, **options))
                self._references[key] = known
            return evaluate_groups(
                samples,
                pieces,
                scorer,
                source=text.source,
                reference_scores=known.scores,
                scorer_note=note,
                score=score,
                **options,
            )
