"""What the body that samples are drawn with computes, and how often."""

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.unmask import Body, Decoding, Head, unmask
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.stages.sampling.sampler import decoding_functions

MASK, LENGTH = 0, 16


@pytest.fixture
def base() -> TokenDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = TokenDenoiser(vocab_size=9, mask_id=MASK, length=LENGTH, width=8, layers=2, heads=2).eval()
        for parameter in base.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return base


def rows_computed(base: TokenDenoiser) -> list[int]:
    """Texts in each call of a network from now on."""
    counts: list[int] = []
    base.embedding.register_forward_hook(lambda module, inputs, output: counts.append(len(inputs[0])))
    return counts


@torch.no_grad()
@pytest.mark.parametrize("written", [(), (0,), (1, 3), (4,), (0, 1, 2, 3), (0, 1, 2, 3, 4)])
def test_texts_in_which_all_is_masked_are_computed_as_one(base: TokenDenoiser, written: tuple[int, ...]) -> None:
    x = torch.full((5, LENGTH), MASK)
    for row in written:
        x[row, row % LENGTH] = 3 + row
    select = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.15
    select[2] = False
    wanted = base.body(x)[select]
    counts = rows_computed(base)
    found = decoding_functions(base)[0](x, torch.arange(5), select)
    torch.testing.assert_close(found, wanted)
    assert counts == [min(5, len(written) + 1)]


@torch.no_grad()
def test_the_first_step_of_a_base_runs_on_one_text(base: TokenDenoiser) -> None:
    chance = torch.Generator().manual_seed(2)
    reveal_times, uniform = torch.rand(2, 32, LENGTH, generator=chance, dtype=torch.float64)
    x = torch.full((32, LENGTH), MASK)

    def drawn(body: Body, head: Head) -> Tensor:
        return unmask(body, head, x, MASK, reveal_times, uniform, Decoding(2))

    counts = rows_computed(base)
    ours = drawn(*decoding_functions(base))
    assert counts[0] == 1
    counts.clear()
    each_by_itself = drawn(lambda x_t, rows, select: base.body(x_t)[select], base.float32_logits)
    assert torch.equal(each_by_itself, ours)
    assert counts[0] > 1


@torch.no_grad()
def test_texts_of_different_latents_are_not_taken_for_one() -> None:
    shape = {"vocab_size": 9, "mask_id": MASK, "length": LENGTH, "width": 8, "layers": 2, "heads": 2}
    decoder = TokenDenoiser(**shape, cross_layers=(0,), latents=3, latent_width=4).eval()  # type: ignore[arg-type]
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(3))
    z, x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(4)), torch.full((2, LENGTH), MASK)
    hidden = decoding_functions(decoder, z)[0](x, torch.arange(2), x == MASK).view(2, LENGTH, -1)
    torch.testing.assert_close(hidden, decoder.body(x, decoder.latent_caches(z)))
    assert not torch.allclose(hidden[0], hidden[1])
