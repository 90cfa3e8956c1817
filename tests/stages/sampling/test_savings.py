"""``examples/savings.py`` compares what it says it does: undone, a saving changes the time and not the texts."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from diladiff_cli.networks.denoiser import TokenDenoiser


@pytest.fixture
def savings(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    return importlib.import_module("savings")


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "separate_products",
        "caches_in_every_step",
        "last_block_everywhere",
        "whole_batch_in_every_step",
        "each_text_by_itself",
    ],
)
def test_an_undone_saving_gives_the_same_texts(savings: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(savings, "LENGTH", 12)
    monkeypatch.setattr(savings, "has_fast_bf16", lambda device: False)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 50, "mask_id": 0, "length": 12, "width": 16, "layers": 2, "heads": 2}
    decoder = TokenDenoiser(**shape, cross_layers=(0, 1), latents=6, latent_width=4).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z = None if name == "each_text_by_itself" else torch.randn(5, 6, 4)
    ours = savings.generation(decoder, savings.as_it_is(decoder, z), 5, 12)()
    theirs = savings.generation(decoder, getattr(savings, name)(decoder, z), 5, 12)()
    assert torch.equal(ours, theirs)
    assert (ours != 0).all()
    assert len(ours.unique(dim=0)) == 5


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 5])
def test_undone_the_body_runs_on_the_whole_batch_in_every_step(
    savings: ModuleType, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(savings, "LENGTH", 12)
    monkeypatch.setattr(savings, "has_fast_bf16", lambda device: False)
    shape: dict[str, Any] = {"vocab_size": 50, "mask_id": 0, "length": 12, "width": 16, "layers": 2, "heads": 2}
    decoder = TokenDenoiser(**shape, cross_layers=(0, 1), latents=6, latent_width=4).eval()
    z = torch.randn(batch_size, 6, 4)
    sizes: list[int] = []
    decoder.embedding.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    savings.generation(decoder, savings.as_it_is(decoder, z), batch_size, 12)()
    ours, sizes[:] = list(sizes), []
    savings.generation(decoder, savings.whole_batch_in_every_step(decoder, z), batch_size, 12)()
    assert sizes == [batch_size] * 12
    assert sum(ours) < sum(sizes)
