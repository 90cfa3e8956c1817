from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.gaussian import TanSchedule, diffuse, expand, velocity
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.networks.layers import use_plain_attention

SHAPE = {"latents": 5, "latent_width": 4, "width": 16, "layers": 2, "heads": 2}
D = 10.0
Model = TypeVar("Model", bound=torch.nn.Module)


def z(batch: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, 5, 4, generator=torch.Generator().manual_seed(seed))


def stirred(model: Model, std: float = 0.1) -> Model:
    """Move every parameter off its starting value."""
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=source))
    return model


def prior(positions: str = "local") -> LatentPrior:
    torch.manual_seed(0)
    return LatentPrior(schedule_d=D, positions=positions, **SHAPE)


def student(teacher: LatentPrior, positions: str = "local") -> LatentStudent:
    torch.manual_seed(1)
    model = LatentStudent(schedule_d=D, positions=positions, **SHAPE)
    found = model.load_state_dict(teacher.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert all(name.startswith("trunk.interval.") for name in found.missing_keys)
    return model


@torch.no_grad()
@pytest.mark.parametrize("time", [0.01, 0.1, 0.5, 1.0])
def test_a_new_prior_is_the_best_linear_estimate_of_a_white_latent(time: float) -> None:
    model, schedule = prior(), TanSchedule(D)
    z_0, t = z(20_000), torch.full((20_000,), time)
    z_t = diffuse(z_0, z(20_000, seed=1), schedule(t))
    slope = float((z_t * z_0).sum() / z_t.square().sum())  # least squares over all entries
    estimate = model(z_t[:4], t[:4], torch.zeros_like(z_t[:4]))
    torch.testing.assert_close(estimate, slope * z_t[:4], rtol=0, atol=0.01 * float(z_t.abs().max()))
    error = float((model(z_t, t, torch.zeros_like(z_t)) - z_0).square().mean())
    assert error == pytest.approx(float(schedule(t).sigma[0]) ** 2, rel=0.03)


def test_the_velocity_of_a_prior_is_its_direction_in_angle_units() -> None:
    model = stirred(prior())
    z_t, t = z(), torch.tensor([0.05, 0.4, 1.0])
    level = model.schedule(t)
    direction = model.trunk(z_t, t, z(seed=2))
    found = velocity(z_t, model(z_t, t, z(seed=2)), level)
    torch.testing.assert_close(found, -expand(level.theta_dot, z_t) * direction, rtol=1e-4, atol=1e-4)


def test_a_student_that_starts_from_its_teacher_has_its_velocity_at_r_equal_t() -> None:
    teacher = stirred(prior())
    z_t, z_self, t = z(), z(seed=2), torch.tensor([0.05, 0.4, 1.0])
    wanted = velocity(z_t, teacher(z_t, t, z_self), teacher.schedule(t))
    torch.testing.assert_close(student(teacher)(z_t, t, t, z_self), wanted, rtol=1e-4, atol=1e-4)


def test_a_student_that_starts_from_its_teacher_jumps_to_zero_onto_the_clean_estimate() -> None:
    teacher = stirred(prior())
    z_t, z_self, t = z(), z(seed=2), torch.tensor([0.05, 0.4, 1.0])
    u = student(teacher)(z_t, t, torch.zeros(3), z_self)
    torch.testing.assert_close(z_t - expand(t, z_t) * u, teacher(z_t, t, z_self), rtol=1e-4, atol=1e-4)


def test_a_student_with_a_constant_direction_moves_along_its_own_flow() -> None:
    """Jumping t -> r -> s equals jumping t -> s where the direction is that of one straight rotation."""
    model = LatentStudent(schedule_d=D, **SHAPE)
    t, r = torch.tensor([1.0, 0.8, 0.3]), torch.tensor([0.4, 0.3, 0.1])
    z_0, eps = z(), z(seed=1)
    z_t, z_r = diffuse(z_0, eps, model.schedule(t)), diffuse(z_0, eps, model.schedule(r))
    level = model.schedule(t)
    direction = expand(level.sigma, z_t) * z_0 - expand(level.alpha, z_t) * eps
    model.trunk.forward = lambda *_: direction  # type: ignore[method-assign]
    moved = z_t - expand(t - r, z_t) * model(z_t, t, r, z_t)
    torch.testing.assert_close(moved, z_r, rtol=1e-4, atol=1e-5)


TIMES = [
    pytest.param([0.9, 0.5, 0.2], [0.1, 0.3, 0.0], id="r < t"),
    pytest.param([0.9, 0.5, 0.2], [0.9, 0.5, 0.2], id="r = t"),
]


def double(model: torch.nn.Module) -> Callable[..., Any]:
    """The network in float64, for finite differences: its own casts to float32 become no-ops."""
    twin = model.double()

    def call(*inputs: Tensor) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "float", Tensor.double)
            return twin(*inputs)

    return call


@pytest.mark.parametrize("positions", ["learned", "rotary", "local"])
@pytest.mark.parametrize(("end", "start"), TIMES)
def test_the_jvp_of_a_student_agrees_with_finite_differences(
    end: list[float], start: list[float], positions: str
) -> None:
    model = stirred(student(prior(positions), positions), 0.3)
    use_plain_attention(model)
    u = double(model)
    z_t, z_self, v = z().double(), z(seed=2).double(), z(seed=3).double()
    t, r = torch.tensor(end, dtype=torch.float64), torch.tensor(start, dtype=torch.float64)
    value, tangent = u(z_t, t, r, z_self, v)
    h = 1e-5
    with torch.no_grad():
        near, far = (u(z_t + x * v, t + x, r, z_self) - u(z_t - x * v, t - x, r, z_self) for x in (h, 2 * h))
    assert tangent.abs().max() > 1
    torch.testing.assert_close(tangent, (8 * near - far) / (12 * h), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(value, u(z_t, t, r, z_self), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("end", "start"), TIMES)
def test_the_jvp_in_float32_agrees_with_float64_and_its_value_can_be_trained(
    end: list[float], start: list[float]
) -> None:
    model = stirred(student(prior()))
    use_plain_attention(model)
    t, r = torch.tensor(end), torch.tensor(start)
    value, tangent = model(z(), t, r, z(seed=2), z(seed=3))
    assert not tangent.requires_grad
    value.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    _, wanted = double(model)(*(x.double() for x in (z(), t, r, z(seed=2), z(seed=3))))
    torch.testing.assert_close(tangent.double(), wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["learned", "rotary", "local"])
def test_the_order_of_the_latents_matters(positions: str) -> None:
    model, t = stirred(prior(positions), 0.3), torch.full((3,), 0.1)
    order = torch.tensor([2, 0, 1, 4, 3])
    moved = model(z()[:, order], t, z(seed=2)[:, order])[:, torch.argsort(order)]
    assert not torch.allclose(moved, model(z(), t, z(seed=2)), atol=1e-2)


@pytest.mark.parametrize("time", [0.0, 1.0])
def test_both_ends_of_time_are_finite(time: float) -> None:
    t = torch.full((3,), time)
    teacher = stirred(prior())
    assert teacher(z(), t, z()).isfinite().all()
    for r in (t, torch.zeros(3)):
        assert student(teacher)(z(), t, r, z()).isfinite().all()
