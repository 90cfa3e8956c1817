"""Products with weight matrices: oneDNN's where nothing is derived, torch's own elsewhere, and always the same."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diladiff_cli.networks import products
from diladiff_cli.networks.products import Linear, linear

needs_onednn = pytest.mark.skipif(not products.HAS_ONEDNN, reason="this torch has no oneDNN, or the processor no x86")


@pytest.fixture(autouse=True)
def small_products_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_WORK", 1)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT = numbers(24, 8, seed=1)
VECTORS = {
    "rows": numbers(6, 8),
    "a batch": numbers(4, 6, 8),
    "a single vector": numbers(8),
    "transposed": numbers(6, 4, 8).transpose(0, 1),
    "every other entry": numbers(6, 16)[:, ::2],
    "expanded": numbers(1, 6, 8).expand(4, 6, 8),
}
WEIGHTS = {"whole": WEIGHT, "a part": WEIGHT[8:], "transposed": numbers(8, 24, seed=2).t(), "strided": WEIGHT[::2]}


@needs_onednn
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("x", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_in_float64(x: Tensor, weight: Tensor, biased: bool) -> None:
    bias = numbers(len(weight), seed=3) if biased else None
    with torch.no_grad():
        assert products._by_onednn(x, weight, bias)
        found = linear(x, weight, bias)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("x", "weight"), [((0, 8), (24, 8)), ((3, 8), (0, 8)), ((3, 0), (24, 0)), ((2, 0, 8), (5, 8))])
def test_empty_products_are_empty_or_zero(x: tuple[int, ...], weight: tuple[int, ...]) -> None:
    with torch.inference_mode():
        found = linear(torch.ones(x), torch.ones(weight))
    assert torch.equal(found, torch.zeros(*x[:-1], weight[0]))


def test_small_products_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_WORK", 6 * 8 * 24 + 1)
    with torch.no_grad():
        assert not products._by_onednn(numbers(6, 8), WEIGHT, None)


def test_gradients_are_those_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer, x = Linear(8, 24), numbers(6, 8).requires_grad_()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    grads = torch.autograd.grad(layer(x).pow(2).sum(), [x, layer.weight, layer.bias])
    wanted = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).pow(2).sum(), [x, layer.weight, layer.bias])
    assert all(torch.equal(one, other) for one, other in zip(grads, wanted, strict=True))


@pytest.mark.parametrize("of", ["vectors", "weight", "bias"])
def test_forward_derivatives_are_not_dropped_where_no_gradients_are_recorded(of: str) -> None:
    given: dict[str, Any] = {"vectors": numbers(6, 8), "weight": WEIGHT, "bias": numbers(24, seed=3)}
    direction = numbers(*given[of].shape, seed=4)

    def product(value: Tensor) -> Tensor:
        return linear(*(given | {of: value}).values())

    with torch.no_grad():
        _, tangent = torch.func.jvp(product, (given[of],), (direction,))
    zero = {"vectors": 0 * given["bias"], "weight": 0 * given["bias"]}
    linear_part = given | {of: direction, "bias": direction if of == "bias" else zero[of]}
    wanted = direction.expand(6, 24) if of == "bias" else F.linear(*linear_part.values())
    torch.testing.assert_close(tangent, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_and_autocast_are_torchs_own(dtype: torch.dtype) -> None:
    x = numbers(6, 8)
    with torch.inference_mode():
        assert torch.equal(linear(x.to(dtype), WEIGHT.to(dtype)), F.linear(x.to(dtype), WEIGHT.to(dtype)))
        with torch.autocast("cpu", torch.bfloat16):
            found = linear(x, WEIGHT)
            assert found.dtype == torch.bfloat16
            assert torch.equal(found, F.linear(x, WEIGHT))


def test_compiled_products_are_left_to_the_compiler() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        torch.compile(linear, backend=keep, fullgraph=True)(numbers(6, 8), WEIGHT)
    called = [node.target for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    assert called == [torch._C._nn.linear]
    torch.compiler.reset()


@pytest.mark.parametrize("gelu", ["none", "tanh"])
@pytest.mark.parametrize("biased", [False, True])
def test_gelu_in_the_same_pass_is_gelu_of_the_product(gelu: str, biased: bool) -> None:
    bias = numbers(24, seed=3) if biased else None
    with torch.no_grad():
        found = linear(numbers(60, 8), WEIGHT, bias, gelu)
    exact = F.linear(numbers(60, 8).double(), WEIGHT.double(), None if bias is None else bias.double())
    torch.testing.assert_close(found.double(), F.gelu(exact, approximate=gelu), rtol=1e-5, atol=2e-6)
