"""RMS normalisation: the same whether anything is derived or not."""

import pytest
import torch
from torch import Tensor

from diladiff_cli.networks.norms import RMSNorm, rms_norm


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def defined(x: Tensor, weight: Tensor) -> Tensor:
    x, weight = x.double(), weight.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


INPUTS = {
    "states": numbers(3, 5, 8),
    "heads of a fused projection": numbers(2, 6, 24)[..., 8:16].unflatten(-1, (2, 4)).transpose(1, 2),
    "large": 1e15 * numbers(4, 8),
    "small, which the constant bounds": 1e-4 * numbers(4, 8),
    "zero": torch.zeros(4, 8),
    "no vectors": torch.zeros(0, 8),
}


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("derived", [True, False])
def test_vectors_are_scaled_to_unit_mean_square(x: Tensor, derived: bool) -> None:
    weight, before = numbers(x.shape[-1], seed=1), x.clone()
    with torch.set_grad_enabled(derived):
        found = rms_norm(x, weight)
    torch.testing.assert_close(found.double(), defined(x, weight), rtol=2e-6, atol=1e-7)
    assert torch.equal(x, before)


@pytest.mark.parametrize("derived", [True, False])
def test_torchs_own_is_for_what_is_derived(monkeypatch: pytest.MonkeyPatch, derived: bool) -> None:
    calls: list[Tensor] = []
    monkeypatch.setattr("torch.nn.functional.rms_norm", lambda x, *_: calls.append(x) or x)
    with torch.set_grad_enabled(derived):
        rms_norm(numbers(4, 8), numbers(8, seed=1))
    assert bool(calls) is derived


@pytest.mark.parametrize("derived", [True, False])
def test_bf16_vectors_are_normalised_in_float32(derived: bool) -> None:
    norm, x = RMSNorm(8), numbers(50, 8).bfloat16()
    with torch.set_grad_enabled(derived):
        found = norm(x)
    assert found.dtype == torch.bfloat16
    half_a_bit = 1.001 * torch.finfo(torch.bfloat16).eps / 2  # what rounding the result alone may cost
    torch.testing.assert_close(found.double(), defined(x, norm.weight), rtol=half_a_bit, atol=0.0)


def test_forward_derivatives_where_no_gradients_are_recorded_are_those_of_finite_differences() -> None:
    x, direction, weight, h = numbers(3, 8), numbers(3, 8, seed=2), numbers(8, seed=1), 1e-5
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda x: rms_norm(x, weight), (x,), (direction,))
    x, direction = x.double(), direction.double()
    wanted = (defined(x + h * direction, weight) - defined(x - h * direction, weight)) / (2 * h)
    torch.testing.assert_close(tangent.double(), wanted, rtol=1e-4, atol=1e-5)
