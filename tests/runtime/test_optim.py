import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from diladiff_cli.config import MdlmConfig
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.latent import LatentPrior
from diladiff_cli.runtime import optim
from diladiff_cli.runtime.optim import AveragedModel, LrOverride, build_optimizers, lr_multiplier, set_learning_rates


def settings(**changes: Any) -> MdlmConfig:
    return MdlmConfig(**{"max_steps": 110, "warmup_steps": 10, "learning_rate": 0.5} | changes)


def network() -> TokenDenoiser:
    return TokenDenoiser(
        vocab_size=9,
        mask_id=8,
        length=6,
        width=8,
        layers=2,
        heads=2,
        bias=True,
        cross_layers=(1,),
        latents=3,
        latent_width=4,
    )


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in held}


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_linearly_to_its_peak_and_never_rises_again(shape: str) -> None:
    config = settings(lr_schedule=shape)
    rates = [lr_multiplier(config, step, 10) for step in range(110)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


def test_each_decay_has_its_shape_and_its_floor() -> None:
    assert lr_multiplier(settings(lr_schedule="cosine"), 60, 10) == pytest.approx(0.5)
    assert lr_multiplier(settings(lr_schedule="cosine"), 35, 10) == pytest.approx(0.5 + 0.5 * math.sqrt(0.5))
    assert lr_multiplier(settings(lr_schedule="linear"), 35, 10) == pytest.approx(0.75)
    assert lr_multiplier(settings(lr_schedule="constant"), 109, 10) == 1.0
    assert lr_multiplier(settings(lr_schedule="linear", min_lr_ratio=0.2), 110, 10) == pytest.approx(0.2)
    assert lr_multiplier(settings(lr_schedule="cosine", min_lr_ratio=0.2), 60, 10) == pytest.approx(0.6)
    assert lr_multiplier(settings(warmup_steps=0), 0, 0) == 1.0


def test_a_warm_up_longer_than_the_run_stays_finite() -> None:
    config = settings(max_steps=5, warmup_steps=10)
    assert [lr_multiplier(config, step, 10) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = network()
    adamw, muon = build_optimizers(model, settings(optimizer="muon", precision="bf16"), lambda _: LrOverride())
    assert isinstance(muon, optim.Muon)
    assert muon.dtype == torch.bfloat16
    inside = {n for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks.")}
    assert "blocks.1.cross.kv.weight" in inside
    assert names_of(model, muon) == inside
    assert names_of(model, adamw) == {n for n, _ in model.named_parameters()} - inside
    assert {"embedding.weight", "position", "head.weight", "blocks.0.mlp.up.bias"} <= names_of(model, adamw)


def test_the_modulation_offsets_of_a_latent_network_are_no_matrices_for_muon() -> None:
    model = LatentPrior(schedule_d=10.0, latents=3, latent_width=4, width=8, layers=1, heads=2)
    adamw, muon = build_optimizers(model, settings(optimizer="muon"), lambda _: LrOverride())
    assert "trunk.blocks.0.modulation.offset" in names_of(model, adamw)
    assert "trunk.blocks.0.attention.qkv.weight" in names_of(model, muon)


def test_adamw_alone_gets_everything_that_is_not_frozen() -> None:
    model = network()
    model.embedding.weight.requires_grad_(False)
    (adamw,) = build_optimizers(model, settings(), lambda _: LrOverride())
    assert names_of(model, adamw) == {n for n, _ in model.named_parameters()} - {"embedding.weight"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_is_for_matrices_alone(optimizer: str) -> None:
    model = network()
    config = settings(optimizer=optimizer, weight_decay=0.1)
    decays = {
        id(p): group["weight_decay"]
        for found in build_optimizers(model, config, lambda _: LrOverride())
        for group in found.param_groups
        for p in group["params"]
    }
    assert {n: decays[id(p)] for n, p in model.named_parameters()} == {
        n: 0.1 if p.ndim >= 2 else 0.0 for n, p in model.named_parameters()
    }


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_parts_have_warm_ups_and_factors_of_their_own(optimizer: str) -> None:
    model, config = network(), settings(optimizer=optimizer, lr_schedule="constant")
    slow = LrOverride(ratio=0.5, warmup_steps=40)
    optimizers = build_optimizers(model, config, lambda name: LrOverride() if ".cross." in name else slow)
    set_learning_rates(optimizers, config, step=19)
    rates = {id(p): group["lr"] for found in optimizers for group in found.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.5 if ".cross." in name else 0.5 * 0.5 * 20 / 40)


def test_a_muon_update_of_a_matrix_has_the_size_of_an_adamw_update() -> None:
    sizes = {}
    for name in ("adamw", "muon"):
        torch.manual_seed(0)
        model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(64, 64, bias=False)])})
        before = [p.clone() for p in model.parameters()]
        config = settings(optimizer=name, learning_rate=1e-3, warmup_steps=0)
        optimizers = build_optimizers(model, config, lambda _: LrOverride())
        set_learning_rates(optimizers, config, 0)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        (now,) = model.parameters()
        sizes[name] = float((now - before[0]).detach().square().mean().sqrt())
    assert sizes["adamw"] == pytest.approx(1e-3, rel=0.05)
    assert 0.1 * sizes["adamw"] < sizes["muon"] < sizes["adamw"]


def test_the_average_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0)
    average, wanted = AveragedModel(model, 0.5), 3.0
    for step in range(15):
        value = float(step**2 % 7)
        nn.init.constant_(model.weight, value)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * value
        assert float(average.model.weight.detach()) == pytest.approx(wanted, rel=1e-5)


def test_the_average_is_frozen_and_takes_over_buffers_when_told() -> None:
    model = nn.BatchNorm1d(2)
    average = AveragedModel(model, 0.9)
    assert not any(p.requires_grad for p in average.model.parameters())
    assert not average.model.training
    model(torch.randn(8, 2) + 5)
    assert float(average.model.running_mean.sum()) == 0
    average.gather(model)
    assert torch.equal(average.model.running_mean, model.running_mean)


class Dtypes(TorchDispatchMode):
    """Notes the precisions of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
            self.seen.add(found.dtype)
        return found


def test_muon_multiplies_in_the_precision_of_the_run() -> None:
    updates = {}
    for bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        seeded = torch.Generator().manual_seed(0)
        matrix = torch.nn.Parameter(torch.randn(12, 20, generator=seeded))
        matrix.grad = torch.randn(12, 20, generator=seeded)
        before = matrix.detach().clone()
        with Dtypes() as products:
            optim.Muon([matrix], bf16=bf16, lr=0.1, weight_decay=0.0, momentum=0.0, nesterov=False).step()
        assert products.seen == {dtype}
        updates[bf16] = matrix.detach() - before
    scale = updates[False].square().mean().sqrt()
    assert (updates[True] - updates[False]).abs().max() < 0.1 * scale
    singular = torch.linalg.svdvals(updates[False])
    assert singular.max() < 2 * singular.min()  # nearly orthogonal


def test_matrices_of_one_shape_together_are_updated_as_one_by_one() -> None:
    shapes = [(12, 20), (20, 12), (12, 20), (8, 8), (12, 20), (20, 12)]
    found, wanted = ([torch.nn.Parameter(torch.full(s, 0.1 * i)) for i, s in enumerate(shapes)] for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.1}
    together = optim.Muon(found, bf16=True, **options)
    alone = torch.optim.Muon(wanted, adjust_lr_fn="match_rms_adamw", **options)
    seeded = torch.Generator().manual_seed(0)
    for _ in range(4):
        for one, other in zip(found, wanted, strict=True):
            one.grad = torch.randn(one.shape, generator=seeded)
            other.grad = one.grad.clone()
        together.step()
        alone.step()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
