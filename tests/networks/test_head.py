"""The vocabulary head, and networks whose blocks hold bf16 matrices."""

from typing import Any

import pytest
import torch

from diladiff_cli.networks.denoiser import TokenDenoiser, with_bf16_matrices

VOCAB, MASK = 23, 22


def build(tie_embeddings: bool, width: int = 16) -> TokenDenoiser:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": VOCAB, "mask_id": MASK, "length": 12, "layers": 2, "heads": 2}
    return TokenDenoiser(**shape, width=width, tie_embeddings=tie_embeddings)


@pytest.mark.parametrize("tied", [True, False])
def test_bf16_matrices_are_bf16s_and_the_original_is_left_alone(tied: bool) -> None:
    model = build(tied)
    copy = with_bf16_matrices(model)
    matrices = [part.weight for part in copy.blocks.modules() if isinstance(part, torch.nn.Linear)]
    assert {weight.dtype for weight in matrices} == {torch.bfloat16}
    assert copy.head_table is model.head_table
    assert copy.embedding.weight is model.embedding.weight
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
def test_logits_to_draw_from_are_float32_products_of_float32_numbers(tied: bool, rows: int) -> None:
    torch.manual_seed(0)
    copy = with_bf16_matrices(build(tied, width=64))
    hidden = torch.randn(rows, 64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = copy.float32_logits(hidden)
    exact = hidden.double() @ copy.head_table.double().t()
    exact[:, MASK] = -torch.inf
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6)  # with bf16 factors off by 1e-3
