"""The vocabulary head: products in parts, and with bf16 factors."""

from contextlib import nullcontext
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.networks.denoiser import TokenDenoiser, project, with_bf16_matrices

VOCAB, MASK = 23, 22


def build(tie_embeddings: bool, width: int = 16) -> TokenDenoiser:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": VOCAB, "mask_id": MASK, "length": 12, "layers": 2, "heads": 2}
    return TokenDenoiser(**shape, width=width, tie_embeddings=tie_embeddings)


@pytest.mark.parametrize("rows", [0, 1, 2, 8, 9])
@pytest.mark.parametrize("biased", [False, True])
def test_logits_in_parts_are_those_of_one_product(monkeypatch: pytest.MonkeyPatch, rows: int, biased: bool) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("diladiff_cli.networks.denoiser.VECTORS", 4)
    monkeypatch.setattr("diladiff_cli.networks.denoiser.TOKENS", 16)
    x, weight, bias = torch.randn(rows, 8), torch.randn(50, 8), torch.randn(50) if biased else None
    with torch.inference_mode():
        found = project(x, weight, bias)
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_logits_under_autocast_and_with_gradients_are_those_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 8), torch.randn(50, 8, requires_grad=True)
    assert project(x, weight).requires_grad
    assert torch.equal(project(x, weight), torch.nn.functional.linear(x, weight))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = project(x, weight)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("tied", [True, False])
def test_bf16_matrices_are_bf16s_and_the_original_is_left_alone(tied: bool) -> None:
    model = build(tied)
    copy = with_bf16_matrices(model)
    matrices = [part.weight for part in copy.blocks.modules() if isinstance(part, torch.nn.Linear)]
    assert {weight.dtype for weight in matrices} == {torch.bfloat16}
    assert copy.head_table.dtype == torch.float32
    assert torch.equal(copy.head_table, model.head_table.bfloat16().float())
    assert not torch.equal(copy.head_table, model.head_table)
    assert torch.equal(copy.embedding.weight, model.embedding.weight) is not tied
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert copy.bf16_head
    assert not model.bf16_head


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
def test_logits_of_a_bf16_head_are_sums_in_float32_of_products_of_bf16_numbers(tied: bool, rows: int) -> None:
    torch.manual_seed(0)
    copy = with_bf16_matrices(build(tied, width=64))
    hidden = torch.randn(rows, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = copy.float32_logits(hidden)
    exact = hidden.bfloat16().double() @ copy.head_table.double().t()
    exact[:, MASK] = -torch.inf
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6)  # bf16 sums would be off by 1e-3
    assert not torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize(("rows", "factors"), [(7, "none"), (8, "bf16")])
@pytest.mark.parametrize("fails", [False, True])
def test_products_of_many_vectors_have_bf16_factors_and_others_not(
    monkeypatch: pytest.MonkeyPatch, rows: int, factors: str, fails: bool
) -> None:
    seen: list[str] = []

    def product(left: Tensor, right: Tensor) -> Tensor:
        seen.append(setting())
        if fails:
            raise RuntimeError("as asked for")
        return left.new_zeros(len(left), right.shape[1])

    monkeypatch.setattr("torch.nn.functional.linear", lambda x, table, bias: product(x, table.t()))
    monkeypatch.setattr(Tensor, "__matmul__", product)
    with torch.inference_mode(), pytest.raises(RuntimeError) if fails else nullcontext():
        project(torch.zeros(rows, 4), torch.zeros(5, 4), in_bf16=True)
    assert seen == [factors]
    assert setting() == "none"


def setting() -> str:
    """What torch makes factors of float32 products of a CPU of."""
    mkldnn: Any = torch.backends.mkldnn
    return str(mkldnn.matmul.fp32_precision)


def test_threads_leave_the_setting_as_it_was() -> None:
    x, table = torch.zeros(8, 4), torch.zeros(5, 4)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(200):
                project(x, table, in_bf16=True)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert setting() == "none"
