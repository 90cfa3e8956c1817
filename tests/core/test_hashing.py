"""The hash of tensors: equal for equal content, another for any difference."""

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.hashing import tensors_hash

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5).bfloat16(), "c": torch.empty(0)}


def test_neither_the_order_nor_the_layout_counts() -> None:
    other = {"c": torch.empty(0), "b": TENSORS["b"].clone(), "a": TENSORS["a"].t().contiguous().t()}
    assert tensors_hash(other) == tensors_hash(TENSORS)


@pytest.mark.parametrize(
    "change",
    [
        {"a": TENSORS["a"] + torch.eye(2, 3)},
        {"a": TENSORS["a"].reshape(3, 2)},
        {"b": TENSORS["b"].half()},
        {"c": torch.zeros(1)},
        {"d": torch.empty(0)},
    ],
)
def test_contents_types_shapes_and_names_count(change: dict[str, Tensor]) -> None:
    assert tensors_hash(TENSORS | change) != tensors_hash(TENSORS)
