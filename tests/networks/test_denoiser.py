from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.networks.autoencoder import load_base_weights
from diladiff_cli.networks.denoiser import TokenDenoiser, latent_positions, with_bf16_matrices

VOCAB, MASK, LENGTH, LATENTS, CHANNELS = 23, 22, 12, 6, 5
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "mask_id": MASK,
    "length": LENGTH,
    "width": 16,
    "layers": 3,
    "heads": 2,
}
CROSS: dict[str, Any] = {"cross_layers": (0, 2), "latents": LATENTS, "latent_width": CHANNELS}


def tokens(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, LENGTH), generator=torch.Generator().manual_seed(seed))


def latents(batch: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(batch, LATENTS, CHANNELS, generator=torch.Generator().manual_seed(seed))


def build(**options: Any) -> TokenDenoiser:
    torch.manual_seed(0)
    return TokenDenoiser(**BASE | options)


def decoder(**options: Any) -> TokenDenoiser:
    """A decoder whose cross-attention has left its zero start."""
    model = build(**CROSS, **options)
    for name, parameter in model.named_parameters():
        if ".cross.outer" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_new_decoder_is_the_base_bit_for_bit_whatever_the_latents(local: bool, scale: float) -> None:
    base, model = build(), build(**CROSS, local_attention=local)
    torch.manual_seed(7)
    for parameter in base.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    load_base_weights(model, base.state_dict())
    mask = torch.rand(3, LATENTS) < 0.5
    assert torch.equal(model(tokens(), None, scale * latents(), mask), base(tokens()))


def test_the_embedding_table_of_a_decoder_is_frozen_and_nothing_else() -> None:
    model = build(**CROSS)
    load_base_weights(model, build().state_dict())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["embedding.weight"]


@pytest.mark.parametrize("options", [{"layers": 2}, {"layers": 4}])
def test_a_base_of_another_depth_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        load_base_weights(build(**CROSS), build(**options).state_dict())


@pytest.mark.parametrize("tied", [True, False])
def test_the_sparse_head_gives_the_selected_rows_of_the_full_one(tied: bool) -> None:
    model, select = decoder(tie_embeddings=tied), torch.rand(3, LENGTH) < 0.4
    full = model(tokens(), None, latents())
    sparse = model(tokens(), select, latents())
    assert sparse.shape == (int(select.sum()), VOCAB)
    torch.testing.assert_close(sparse, full[select], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("positions", ["learned", "rotary", "local"])
@pytest.mark.parametrize("local_attention", [True, False])
@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 0, 5), (0, 0, 1), (11, 2, 12), (0, 0, 0)])
def test_states_at_some_positions_are_those_of_the_whole_body(
    positions: str, local_attention: bool, counts: tuple[int, ...]
) -> None:
    model = build(**CROSS, positions=positions, local_attention=local_attention)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    chance = torch.Generator().manual_seed(6)
    x, z, mask = tokens(), latents(), torch.rand(3, LATENTS, generator=chance) < 0.6
    select = torch.stack([torch.randperm(LENGTH, generator=chance) < count for count in counts])
    caches = model.latent_caches(z, mask)
    found = model.body(x, caches, select)
    assert found.shape == (sum(counts), 16)
    torch.testing.assert_close(found, model.body(x, caches)[select], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.body(x, None, select), model.body(x)[select], rtol=1e-5, atol=1e-5)
    half = with_bf16_matrices(model)
    with torch.autocast("cpu", torch.bfloat16):
        caches = half.latent_caches(z, mask)
        torch.testing.assert_close(half.body(x, caches, select), half.body(x, caches)[select], rtol=5e-2, atol=5e-2)


@torch.no_grad()
def test_the_last_block_runs_where_states_are_asked_for() -> None:
    model, seen = build(), list[int]()
    for block in model.blocks:
        block.mlp.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[1]))
    select = torch.zeros(3, LENGTH, dtype=torch.bool)
    select[1, [2, 5]] = True
    select[2, 7] = True
    model.body(tokens(), None, select)
    assert seen == [LENGTH, LENGTH, 2]
    seen.clear()
    model.body(tokens(), None, torch.ones(3, LENGTH, dtype=torch.bool))
    assert seen == [LENGTH] * 3


@pytest.mark.parametrize("at_once", [1, 64, 1 << 20])
def test_losses_of_targets_are_those_of_the_logits(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("diladiff_cli.networks.denoiser.LOGITS_AT_ONCE", at_once)
    model, select = decoder(), torch.rand(3, LENGTH) < 0.4
    wanted = torch.randint(2, VOCAB, (int(select.sum()),))
    found = model(tokens(), select, latents(), targets=wanted)
    logits = model(tokens(), select, latents())
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))


@pytest.mark.parametrize("local", [True, False])
def test_cached_keys_and_values_give_the_uncached_forward(local: bool) -> None:
    model, z = decoder(local_attention=local), latents()
    mask = torch.tensor([[True] * 6, [True, False] * 3, [False] * 6])
    caches = model.latent_caches(z, mask)
    assert [cache is None for cache in caches] == [False, True, False]
    assert torch.equal(model.logits(model.body(tokens(), caches)), model(tokens(), None, z, mask))


def test_caches_of_some_examples_give_the_forward_of_those_examples() -> None:
    model, z, rows = decoder(), latents(), torch.tensor([2, 0])
    for mask in (None, torch.tensor([[True] * 6, [False] * 6, [True, False] * 3])):
        caches = [None if c is None else c.select(rows) for c in model.latent_caches(z, mask)]
        wanted = model(tokens()[rows], None, z[rows], None if mask is None else mask[rows])
        torch.testing.assert_close(model.logits(model.body(tokens()[rows], caches)), wanted, rtol=1e-5, atol=1e-6)


def test_masked_latents_have_no_influence_and_visible_ones_have() -> None:
    model, z = decoder(), latents()
    mask = torch.tensor([[True, False, True, True, False, True]]).expand(3, -1)
    first = model(tokens(), None, z, mask)
    hidden_moved = torch.where(mask[..., None], z, 100 * torch.randn_like(z))
    assert torch.equal(model(tokens(), None, hidden_moved, mask), first)
    seen_moved = torch.where(mask[..., None], z + 0.5, z)
    assert not torch.allclose(model(tokens(), None, seen_moved, mask), first, atol=1e-3)


def test_an_example_without_visible_latents_stays_finite() -> None:
    nothing = torch.zeros(3, LATENTS, dtype=torch.bool)
    hidden = decoder().body(tokens(), decoder().latent_caches(torch.zeros_like(latents()), nothing))
    assert hidden.isfinite().all()


@pytest.mark.parametrize("options", [{"tie_embeddings": True}, {"bias": True}, {"mask_id": 0}])
def test_only_the_mask_token_is_impossible(options: dict[str, Any]) -> None:
    model = build(**options)
    logits = model(tokens())
    assert torch.isneginf(logits[..., model.mask_id]).all()
    assert int(torch.isneginf(logits).sum()) == logits.shape[0] * logits.shape[1]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"qk_norm": False},
    {"positions": "rotary"},
    {"positions": "local"},
    {"activation": "swiglu"},
    {"activation": "gelu"},
    {"norm": "layernorm", "bias": True},
    {"tie_embeddings": True},
    {"mlp_width": 24},
    {"positions": "rotary", "qk_norm": False, "norm": "layernorm", "bias": True, "activation": "swiglu"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_every_option_trains_and_uses_all_its_parameters(options: dict[str, Any]) -> None:
    model, x = decoder(**options), tokens()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        logits = model(x, None, latents())[..., :MASK]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten() % MASK)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_local_positions_without_their_constants_are_rotary_ones() -> None:
    model, twin = build(positions="rotary"), build(positions="local")
    constants = {name for name, _ in twin.named_parameters() if name.endswith(".attention.q_norm.constant")}
    assert len(constants) == BASE["layers"]
    for name, parameter in twin.named_parameters():
        if name.endswith(".constant"):
            torch.nn.init.zeros_(parameter)
    twin.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(twin(tokens()), model(tokens()))


@pytest.mark.parametrize("positions", ["learned", "rotary", "local"])
def test_the_order_of_the_tokens_matters(positions: str) -> None:
    torch.manual_seed(3)
    model = build(positions=positions)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, order = tokens(1), torch.randperm(LENGTH)
    moved = model(x[:, order])[:, torch.argsort(order)]
    assert not torch.allclose(moved[..., :MASK], model(x)[..., :MASK], atol=1e-2)


def test_latents_lie_evenly_over_the_text() -> None:
    assert latent_positions(4, 8).tolist() == [0.5, 2.5, 4.5, 6.5]
    assert latent_positions(8, 8).tolist() == list(range(8))
