"""Sets of samples -> reports, with one scorer for all of them and the reference text that belongs to each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from diladiff_cli.config import EvalConfig
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.frontier import mean_and_std
from diladiff_cli.metrics.mauve import mauve_score
from diladiff_cli.metrics.scorers import load_scorer
from diladiff_cli.notes import say
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.stages.evaluation.reference_text import ReferenceText, reference_text
from diladiff_cli.stages.evaluation.samples import evaluate_samples
from diladiff_cli.stages.evaluation.scoring import Scored, Scoring
from diladiff_cli.stages.evaluation.sets import Sample, group_samples
from diladiff_cli.stages.sampling.sampler import sampling_device

Report = dict[str, Any]


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
    _references: dict[Any, Scored] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def scoring(self) -> Scoring:
        """The scorer, and how it is used."""
        if self.config.scorer != "none":
            say("loading the scorer")  # for a quarter of a minute
        scorer, note = load_scorer(self.config.scorer, sampling_device(), self.config.precision)
        return Scoring(scorer, note, self.config.context or None, self.config.batch_size, self.keep)

    def replaced(self, scorer: Mapping[str, Any]) -> bool:
        """Whether the scorer that a report names is loaded, and another one by now."""
        loaded = "scoring" in self.__dict__ and self.scoring.scorer is not None
        title = self.scoring.title if loaded else {}
        return loaded and title["name"] == scorer["name"] and title["fingerprint"] != scorer.get("fingerprint")

    def reports(self, samples: list[Sample]) -> Iterator[Report]:
        """One report for each way of sampling, in order of first appearance."""
        for group in group_samples(samples):
            text = self.text(group[0].get("model")).for_samples(group)
            yield self._measure(group, text, text.length_of(group))

    def pooled_mauve(self, sets: Sequence[list[Sample]]) -> Report:
        """MAUVE of sets of samples of one model taken together, beside as many pieces of the reference.

        Returns:
            As :func:`mauve_score`, with the names of ``scorer`` and ``source`` (the reference), and ``reference``: that
            of further pieces, where there are so many, the mean over clusterings.
        """
        n = sum(map(len, sets))
        text = self.text(sets[0][0].get("model"))
        pieces = text.pieces(text.length_of([sample for one in sets for sample in one]), 2 * n)
        scorer = self.scoring.title
        names = {"source": text.source, "scorer": scorer["name"], "fingerprint": scorer["fingerprint"]}
        with self._bar(n + len(pieces)) as bar:
            scored = [self.scoring.of(texts, progress=_advance(bar)) for texts in (*sets, pieces)]
        features = [texts.features for texts in scored if texts.features is not None]
        if len(features) <= len(sets):
            return mauve_score(None, None) | names
        target, rest = features[-1][:n], features[-1][n:]
        further = mauve_score(rest, target).get("values") if len(rest) == n else None
        reference = None if further is None else mean_and_std(further)[0]
        return mauve_score(torch.cat(features[:-1]), target) | names | {"reference": reference}

    def _bar(self, total: int) -> Bar:
        """Counts texts, those of the reference included; nothing without a scorer."""
        scorer = self.scoring.scorer
        title = f"scoring by {scorer.name}" if scorer else "scoring"
        return Bar(title, total, enabled=scorer is not None, patient=True)

    def text(self, model: Any) -> ReferenceText:
        """The reference of a model's samples; says on stderr which, once."""
        name = model if isinstance(model, str) and model else None
        if name not in self._texts:
            text = reference_text(name, self.files, self.data, self.config.text_field)
            if text.note not in [other.note for other in self._texts.values()]:
                say(text.note)
            self._texts[name] = text
        return self._texts[name]

    def _measure(self, samples: list[Sample], text: ReferenceText, length: int) -> Report:
        """The report of samples drawn in one way."""
        n = 2 * len(samples)  # so that one half of the real text can be measured against the other
        reference = self._references.get((text.key, length, n))
        if reference is None and self._references and "-" in text.files:
            raise UserError(
                "the reference on standard input was read already, for another way of sampling", "give it as a file"
            )
        pieces = [] if reference else text.pieces(length, n)
        with self._bar(len(samples) + len(pieces)) as bar:
            if reference is None:
                reference = self.scoring.of(pieces, _advance(bar), text.source)
                self._references[text.key, length, n] = reference
            return evaluate_samples(samples, reference, self.scoring, _advance(bar))


def _advance(bar: Bar) -> Callable[[int], None]:
    return lambda texts: bar.update(texts, "texts")
