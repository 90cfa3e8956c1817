import math

import pytest
import torch
from torch import Tensor

from diladiff_cli.networks import attention
from diladiff_cli.networks.attention import attend
from diladiff_cli.networks.layers import (
    LOCAL_START,
    Block,
    FeedForward,
    SelfAttention,
)
from diladiff_cli.networks.rotary import has_rotary, rotary_angles, rotate


def inputs(queries: int, keys: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((3, 2, queries, 16), (3, 2, keys, 16), (3, 2, keys, 16))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / 4.0
    if mask is not None:
        scores = scores + torch.where(mask, 0.0, -torch.inf)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum("bhnm,bhmd->bhnd", weights, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(8, 5), (5, 300)])
def test_attention_and_its_gradients_are_those_of_its_definition(
    dtype: torch.dtype, masked: bool, queries: int, keys: int
) -> None:
    tensors = inputs(queries, keys, dtype)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    mask = (torch.arange(keys) % 3 != torch.arange(3)[:, None])[:, None, None] if masked else None
    found, wanted = attend(*tensors, mask), by_definition(*exact, mask)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.03}
    torch.testing.assert_close(found.double(), wanted, **close)
    weights = torch.randn(wanted.shape, dtype=torch.float64)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    for x, y in zip(tensors, exact, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, **close)  # type: ignore[union-attr]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(8, 5), (8, 300), (300, 8)])
def test_the_fused_kernel_is_not_for_bf16_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, gradients: bool, queries: int, keys: int
) -> None:
    def fused(*_: Tensor, **__: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", fused)
    with torch.set_grad_enabled(gradients):
        attend(*inputs(queries, keys, torch.bfloat16))
        others = inputs(queries, keys, torch.float32)
        with pytest.raises(AssertionError):
            attend(*others)
        attend(*others, plain=True)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("at_once", [0.5, 1, 2, 4, 100])
def test_attention_in_parts_is_that_of_plain_products(
    monkeypatch: pytest.MonkeyPatch, masked: bool, at_once: float
) -> None:
    """In six examples and heads, some at a time; in float64, so that rounding does not hide what differs."""
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", int(at_once * 7 * 5))
    mask = (torch.arange(5) % 3 != torch.arange(3)[:, None])[:, None, None] if masked else None
    wanted, found = inputs(7, 5, torch.float64), inputs(7, 5, torch.float64)
    expected = attend(*wanted, mask, plain=True)
    q, k, v = (x.flatten(0, 1) for x in found)
    in_parts = attention.attend_in_parts(q / 4.0, k, v, None if mask is None else mask.repeat_interleave(2, 0)[:, 0])
    torch.testing.assert_close(in_parts.unflatten(0, (3, 2)), expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (in_parts.unflatten(0, (3, 2)) * weights).sum().backward()
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("shape", [(300,), (4, 300), (2, 1, 300), (3, 1, 1, 300), (3, 2, 4, 300), (1, 2, 4, 1)])
def test_masks_of_all_shapes_are_those_of_plain_products(shape: tuple[int, ...]) -> None:
    q, k, v = inputs(4, 300, torch.bfloat16)
    mask = torch.rand(shape) < 0.7
    mask[..., :1] = True
    torch.testing.assert_close(attend(q, k, v, mask), attend(q, k, v, mask, plain=True), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("queries", "keys"), [(0, 300), (300, 0)])
def test_nothing_attends_to_nothing(queries: int, keys: int) -> None:
    assert attend(*inputs(queries, keys, torch.bfloat16)).shape == (3, 2, queries, 16)


@pytest.mark.parametrize(("queries", "keys"), [(256, 256), (257, 4), (4, 257)])
def test_long_texts_alone_are_made_in_parts(monkeypatch: pytest.MonkeyPatch, queries: int, keys: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(attention, "attend_in_parts", lambda q, k, v, mask: calls.append(len(q)) or v)
    attend(*inputs(queries, keys, torch.bfloat16))
    attend(*inputs(queries, keys, torch.bfloat16), plain=True)
    assert calls == [6] * (max(queries, keys) > 256)


def test_attention_in_parts_is_an_operation_as_torch_wants_them() -> None:
    shapes = ((6, 4, 8), (6, 5, 8), (6, 5, 3))
    tensors = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    for mask in (None, torch.ones(6, 1, 5, dtype=torch.bool)):
        torch.library.opcheck(attention.attend_in_parts, (*tensors, mask))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_forward_mode_derivative_is_refused_where_there_is_none(number: int) -> None:
    tensors = [x.detach() for x in inputs(300, 300, torch.bfloat16)]

    def attended(x: Tensor) -> Tensor:
        return attend(*tensors[:number], x, *tensors[number + 1 :])

    with pytest.raises(NotImplementedError):
        torch.func.jvp(attended, (tensors[number],), (torch.ones_like(tensors[number]),))


def test_scores_of_long_texts_are_never_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    product = torch.bmm

    def counted(left: Tensor, right: Tensor, **others: Tensor) -> Tensor:
        sizes.append(len(left) * left.shape[1] * right.shape[2])
        return product(left, right, **others)

    monkeypatch.setattr(torch, "bmm", counted)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2 * 300 * 300)
    q, k, v = inputs(300, 300, torch.bfloat16)
    attend(q, k, v).sum().backward()
    assert max(sizes) == 2 * 300 * 300
    assert len(sizes) == 3 * (2 + 5)


@pytest.mark.parametrize("length", [5, 64, 256, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_example_does_not_see_how_many_others_there_are(length: int, dtype: torch.dtype) -> None:
    """Bit for bit: samples do not depend on the batch size."""
    q, k, v = (x.detach() for x in inputs(length, length, dtype))
    assert torch.equal(attend(q[1:2], k[1:2], v[1:2]), attend(q, k, v)[1:2])


@pytest.mark.parametrize(("positions", "qk_norm"), [("alibi", True), ("", True), ("local", False)])
def test_positions_that_cannot_be_are_refused(positions: str, qk_norm: bool) -> None:
    with pytest.raises(ValueError, match="positions"):
        has_rotary(positions, qk_norm)


def test_the_scores_of_local_attention_start_falling_with_distance() -> None:
    """Averaged over vectors, a score is the constants' alone: c^2 sum_i 2 cos(distance f_i)."""
    torch.manual_seed(0)
    attention, places, width = SelfAttention(64, heads=2, qk_norm=True, local=True), 16, 32
    angles = rotary_angles(torch.arange(places), width)
    x = torch.randn(20_000, 2, 1, width)
    with torch.no_grad():
        q = rotate(attention.q_norm(x[:10_000]), angles[:1])
        k = rotate(attention.k_norm(x[10_000:]).expand(-1, -1, places, -1), angles)
    scores = (q @ k.transpose(-1, -2)).mean((0, 1, 2))
    wanted = LOCAL_START**2 * 2 * angles.cos().sum(-1)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=0.3)
    assert wanted[0] == pytest.approx(LOCAL_START**2 * width)
    assert wanted[1:].max() < 0.96 * wanted[0]


def activated(activation: str, x: Tensor) -> Tensor:
    network = FeedForward(1, 1, activation).to(x.dtype)
    for layer in (network.up, network.down):
        torch.nn.init.ones_(layer.weight)
    return network(x[:, None]).squeeze(1)


def test_gelu_tanh_in_bf16_on_a_cpu_is_gelu() -> None:
    x = torch.linspace(-6, 6, 4001)
    assert torch.equal(activated("gelu_tanh", x.bfloat16()), activated("gelu", x.bfloat16()))
    assert 1e-4 < (activated("gelu_tanh", x) - activated("gelu", x)).abs().max() < 5e-4


@pytest.mark.parametrize(
    ("activation", "dtype", "off"),
    [
        ("gelu", torch.float32, 1e-6),
        ("gelu_tanh", torch.float32, 1e-6),
        ("gelu", torch.bfloat16, 1e-6),
        ("gelu_tanh", torch.bfloat16, 5e-4),
    ],
)
@pytest.mark.parametrize("derived", [True, False])
def test_gelu_is_that_of_its_definition(
    monkeypatch: pytest.MonkeyPatch, activation: str, dtype: torch.dtype, off: float, derived: bool
) -> None:
    monkeypatch.setattr("diladiff_cli.networks.products.MIN_WORK", 1)
    x = torch.linspace(-6, 6, 4001).to(dtype)
    exact = x.double()
    if activation == "gelu":
        expected = exact * (1 + torch.erf(exact / math.sqrt(2))) / 2
    else:
        expected = exact * (1 + torch.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3))) / 2
    with torch.set_grad_enabled(derived):
        found = activated(activation, x)
    error, rounding = (found.double() - expected).abs(), torch.finfo(dtype).eps
    assert (error <= off + expected.abs() * rounding).all()


def test_a_block_with_a_condition_refuses_to_give_some_states_alone() -> None:
    block = Block(8, 2, 16, modulated=True)
    with pytest.raises(ValueError, match="gives the states of all places"):
        block(torch.zeros(1, 3, 8), condition=torch.zeros(1, 6, 8), at=torch.tensor([[1]]))
