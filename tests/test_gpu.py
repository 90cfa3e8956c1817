"""What only a GPU can show; left out on machines without one."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from diladiff_cli.config import BenchConfig
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.stages.bench.training import Work, works
from diladiff_cli.stages.sampling import graphs
from diladiff_cli.stages.sampling.sample import draw_latents, generate
from diladiff_cli.stages.sampling.sampler import load_sampler

from .chain import Chain
from .stages.sampling.test_graphs import SETTINGS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STAGES = ("train-mdlm", "train-ae", "train-prior", "distill")


def work_of(stage: str, config: BenchConfig, device: torch.device) -> Work:
    return next(work for work in works(config, 64, 16, 4, device) if work.stage == stage)


def test_a_gpu_draws_the_numbers_of_a_cpu() -> None:
    cpu, gpu = (BatchRng(3, 5, range(4, 12), 16, torch.device(name)) for name in ("cpu", "cuda"))
    assert torch.equal(gpu.uniform(7).cpu(), cpu.uniform(7))
    assert torch.equal(gpu.shared_uniform().cpu(), cpu.shared_uniform())
    torch.testing.assert_close(gpu.normal(3, 5).cpu(), cpu.normal(3, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_the_objective_of_a_stage_is_that_of_a_cpu(stage: str) -> None:
    config = BenchConfig(width=32, layers=2, precision="fp32")
    on_cpu, on_gpu = (work_of(stage, config, torch.device(name)) for name in ("cpu", "cuda"))
    losses = []
    for work, device in ((on_cpu, torch.device("cpu")), (on_gpu, torch.device("cuda"))):
        loss, _ = work.loss_fn(work.model, on_cpu.batch.to(device), BatchRng(0, 1, range(4), 4, device))
        loss.backward()
        losses.append(loss.detach().cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_can_be_trained_under_autocast(stage: str) -> None:
    device = torch.device("cuda")
    config = BenchConfig(width=64, layers=2, precision="bf16")
    work = work_of(stage, config, device)
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        loss, _ = work.loss_fn(work.model, work.batch, BatchRng(0, 1, range(4), 4, device))
    loss.backward()
    gradients = [p.grad for p in work.model.parameters() if p.grad is not None]
    assert loss.isfinite()
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("stage", SETTINGS)
def test_captures_sample_as_plain_steps_do(tiny_chain: Chain, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, config = load_sampler(getattr(tiny_chain, stage), "cuda"), SETTINGS[stage]
    captured = list(generate(sampler, config))
    assert sampler.replays._kept
    again = list(generate(sampler, config))
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "replays_pay", lambda device: False)
        plain = list(generate(sampler, config))
    assert captured == again == plain


@pytest.mark.parametrize("stage", ["prior", "student"])
def test_captures_draw_latents_as_plain_steps_do(
    tiny_chain: Chain, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, config = load_sampler(getattr(tiny_chain, stage), "cuda"), SETTINGS[stage]
    found = [draw_latents(sampler, range(start, start + 2), config) for start in (0, 2, 0)]
    monkeypatch.setattr(graphs, "replays_pay", lambda device: False)
    for z, start in zip(found, (0, 2, 0), strict=True):
        torch.testing.assert_close(z, draw_latents(sampler, range(start, start + 2), config), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", SETTINGS)
def test_compiled_networks_sample_as_others_do_up_to_rounding(tiny_chain: Chain, stage: str) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cuda")
    counters["stats"].clear()
    plain, compiled = (
        torch.tensor([sample["token_ids"] for sample in generate(sampler, replace(SETTINGS[stage], compile=choice))])
        for choice in (False, True)
    )
    assert (plain == compiled).float().mean() > 0.9
    assert counters["stats"]["unique_graphs"] > 0
