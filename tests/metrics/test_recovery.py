import math

import pytest
import torch
from torch import Tensor

from diladiff_cli.metrics.recovery import MaskedLogits, recovery_curve

MASK, LENGTH, KINDS = 5, 10, 5
TOKENS = torch.randint(0, KINDS, (6, LENGTH), generator=torch.Generator().manual_seed(0))


class Recorder:
    """Predicts token 0 everywhere with a logit of 2, and remembers the masks."""

    def __init__(self) -> None:
        self.texts: list[Tensor] = []
        self.masks: list[Tensor] = []

    def __call__(self, x: Tensor) -> MaskedLogits:
        self.texts.append(x)
        return self.logits

    def logits(self, x_t: Tensor, is_masked: Tensor) -> Tensor:
        assert torch.equal(x_t, torch.where(is_masked, MASK, self.texts[-1]))
        self.masks.append(is_masked)
        logits = torch.zeros(int(is_masked.sum()), KINDS)
        logits[:, 0] = 2.0
        return logits


def test_recovery_and_nll_of_a_known_model() -> None:
    curve = recovery_curve(Recorder(), [TOKENS], MASK, ratios=(1.0,))
    share = float((TOKENS == 0).double().mean())
    norm = math.log(math.exp(2) + KINDS - 1)
    assert curve[0]["recovery"] == pytest.approx(share)
    assert curve[0]["nll"] == pytest.approx(norm - 2 * share, rel=1e-5)
    assert curve[0]["tokens"] == TOKENS.numel()


def test_masks_have_the_exact_size_in_every_sequence() -> None:
    recorder = Recorder()
    curve = recovery_curve(recorder, [TOKENS], MASK, ratios=(0.01, 0.3, 0.55, 1.0))
    assert [set(mask.sum(1).tolist()) for mask in recorder.masks] == [{1}, {3}, {6}, {10}]
    assert [row["tokens"] for row in curve] == [6, 18, 36, 60]


def test_masks_depend_on_the_seed_and_not_on_the_batches() -> None:
    def masks(batches: list[Tensor], seed: int) -> Tensor:
        recorder = Recorder()
        recovery_curve(recorder, batches, MASK, ratios=(0.5,), seed=seed)
        return torch.cat(recorder.masks)

    assert torch.equal(masks([TOKENS], 1), masks([TOKENS[:4], TOKENS[4:]], 1))
    assert not torch.equal(masks([TOKENS], 1), masks([TOKENS], 2))


def test_no_data_gives_no_figure() -> None:
    assert recovery_curve(Recorder(), [], MASK, ratios=(0.5,)) == [
        {"ratio": 0.5, "recovery": None, "nll": None, "tokens": 0}
    ]


def test_the_text_is_encoded_once_for_all_masks() -> None:
    recorder = Recorder()
    recovery_curve(recorder, [TOKENS[:4], TOKENS[4:]], MASK)
    assert [len(x) for x in recorder.texts] == [4, 2]
    assert len(recorder.masks) == 20


def test_a_larger_ratio_masks_what_a_smaller_one_does() -> None:
    recorder = Recorder()
    recovery_curve(recorder, [TOKENS], MASK, ratios=(0.2, 0.7))
    few, many = recorder.masks
    assert bool((few <= many).all())
