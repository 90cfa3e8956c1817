"""Products with weight matrices: oneDNN's where nothing is derived, torch's own elsewhere, and always the same."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from diladiff_cli.networks import products
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.layers import FeedForward, SelfAttention
from diladiff_cli.networks.products import Linear, linear

needs_onednn = pytest.mark.skipif(not products.HAS_ONEDNN, reason="this torch has no oneDNN, or the processor no x86")


@pytest.fixture(autouse=True)
def small_products_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MIN_WORK", 1)


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
@pytest.mark.parametrize("biased", ["no bias", "a bias", "every other entry", "expanded"])
def test_products_are_those_in_float64(x: Tensor, weight: Tensor, biased: str) -> None:
    rows = len(weight)
    biases = {"a bias": numbers(rows, seed=3), "every other entry": numbers(2 * rows, seed=3)[::2]}
    bias = (biases | {"expanded": numbers(1, seed=3).expand(rows)}).get(biased)
    with torch.no_grad():
        assert products._by_onednn(x, weight, bias) is (biased in ("no bias", "a bias"))
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
    monkeypatch.setattr(products, "MIN_WORK", 6 * 8 * 24 + 1)
    with torch.no_grad():
        assert not products._by_onednn(numbers(6, 8), WEIGHT, None)


def test_a_weight_of_another_type_and_processors_without_it_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        assert not products._by_onednn(numbers(6, 8), WEIGHT.bfloat16(), None)
        assert not products._by_onednn(numbers(6, 8), WEIGHT, numbers(24).bfloat16())
        monkeypatch.setattr(products, "HAS_ONEDNN", False)
        assert not products._by_onednn(numbers(6, 8), WEIGHT, None)


@needs_onednn
@pytest.mark.parametrize("tied", [True, False])
def test_body_and_head_of_a_decoder_have_no_other_products(tied: bool) -> None:
    shape: dict[str, Any] = {"vocab_size": 23, "mask_id": 22, "length": 12, "layers": 2, "heads": 2, "width": 16}
    decoder = TokenDenoiser(**shape, tie_embeddings=tied, cross_layers=(0,), latents=3, latent_width=4)
    tokens, select = torch.zeros(4, 12, dtype=torch.int64), torch.arange(12).expand(4, 12) < 2
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        caches = decoder.latent_caches(torch.zeros(4, 3, 4))
        decoder.float32_logits(decoder.body(tokens, caches, select))
    counts = Counter(event.name for event in profiled.events())
    assert counts["aten::linear"] == 0
    in_blocks = 2 * 4 + 1 + 4  # and the last one's queries by themselves, and cross-attention
    assert counts["mkldnn::_linear_pointwise"] == in_blocks + 1


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


def test_derivatives_by_an_outer_variable_are_not_dropped() -> None:
    x, direction, t = numbers(6, 8), numbers(6, 8, seed=4), torch.ones(())

    def slope(x: Tensor) -> Tensor:  # by t of t W x, in which W x does not depend on t
        found: Tensor = torch.func.jvp(lambda t: t * linear(x, WEIGHT), (t,), (torch.ones(()),))[1]
        return found

    with torch.no_grad():
        _, tangent = torch.func.jvp(slope, (x,), (direction,))
    torch.testing.assert_close(tangent, F.linear(direction, WEIGHT), rtol=1e-5, atol=1e-5)


def test_derivatives_of_mapped_functions_are_those_of_a_linear_layer() -> None:
    x, direction = numbers(6, 8), numbers(6, 8, seed=4)
    with torch.no_grad():
        _, tangent = torch.func.jvp(torch.func.vmap(lambda row: linear(row, WEIGHT)), (x,), (direction,))
    torch.testing.assert_close(tangent, F.linear(direction, WEIGHT), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_layer_computes_the_same() -> None:
    layer = Linear(8, 24)
    with torch.no_grad():
        traced = torch.jit.trace(layer, numbers(6, 8))
        assert torch.equal(traced(numbers(3, 8)), F.linear(numbers(3, 8), layer.weight, layer.bias))


class Halved(Tensor):
    """A weight that linear layers use at half its size."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
        return found / 2 if func is F.linear else found


def test_weights_with_products_of_their_own_keep_them() -> None:
    with torch.no_grad():
        found = linear(numbers(6, 8), WEIGHT.as_subclass(Halved))
    assert torch.equal(found.as_subclass(Tensor), F.linear(numbers(6, 8), WEIGHT) / 2)


@needs_onednn
def test_operations_are_counted_and_a_switched_off_library_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad():
        assert products._by_onednn(numbers(6, 8), WEIGHT, None)
        with FlopCounterMode(display=False) as counter:
            linear(numbers(6, 8), WEIGHT)
        monkeypatch.setattr(products, "ONEDNN", SimpleNamespace(enabled=False))
        assert not products._by_onednn(numbers(6, 8), WEIGHT, None)
    assert counter.get_total_flops() == 2 * 6 * 8 * 24


class Adapted(torch.nn.Module):
    """A layer with an addition to what it gives, as adapters have it."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.layer, self.weight = layer, layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x.sum(-1, keepdim=True)


@pytest.mark.parametrize("way", ["another layer", "a hook"])
def test_what_is_added_to_a_layer_counts_before_gelu_and_at_single_places(way: str) -> None:
    feed_forward, attention, x = FeedForward(8, 16), SelfAttention(8, 2, qk_norm=True), numbers(2, 5, 8)
    with torch.no_grad():
        wanted = feed_forward.down(F.gelu(feed_forward.up(x) + x.sum(-1, keepdim=True), approximate="tanh"))
        for part, name in ((feed_forward, "up"), (attention, "qkv")):
            if way == "another layer":
                setattr(part, name, Adapted(getattr(part, name)))
            else:
                getattr(part, name).register_forward_hook(lambda _, given, y: y + given[0].sum(-1, keepdim=True))
        torch.testing.assert_close(feed_forward(x), wanted, rtol=1e-5, atol=1e-6)
        everywhere, places = attention(x), torch.tensor([[1, 4], [0, 3]])
        found = attention(x, at=places)
    torch.testing.assert_close(found, everywhere.gather(1, places[..., None].expand(-1, -1, 8)), rtol=1e-5, atol=1e-6)
