"""Shapes and dtypes of the public tensor functions, as their docstrings give them."""

import torch
from jaxtyping import Bool, Float32, Float64, Int64, jaxtyped
from torch import Tensor

from diladiff_cli.core import augment, draw, gaussian, masking, objectives, ode, times, unmask

B, L, N, C, K = 3, 5, 4, 6, 7
T = torch.full((B,), 0.5)
Z = torch.ones(B, N, C)
SCHEDULE = gaussian.TanSchedule()


def fit(kind: type, *values: object) -> bool:
    """Whether all values have the shape and dtype; names of dimensions are bound by the first use in a context."""
    return len(values) > 0 and all(isinstance(value, kind) for value in values)


def test_a_wrong_shape_or_dtype_is_noticed() -> None:
    with jaxtyped("context"):
        assert fit(Float32[Tensor, "b n c"], Z)
        assert not fit(Float32[Tensor, "n b"], torch.ones(B, N))
        assert not fit(Float64[Tensor, "b n c"], Z)


def test_masking_keeps_batch_and_length() -> None:
    x = torch.zeros(B, L, dtype=torch.long)
    masked = masking.draw_mask(T, torch.rand(B, L))
    with jaxtyped("context"):
        assert fit(Int64[Tensor, "b l"], x, masking.apply_mask(x, masked, K))
        assert fit(Bool[Tensor, "b l"], masked)
        assert fit(Float32[Tensor, "b"], masking.alpha(T), masking.elbo_weight(T))


def test_gaussian_maps_keep_the_shape_of_the_latents() -> None:
    level = SCHEDULE(T)
    maps = (gaussian.velocity, gaussian.diffuse, gaussian.sampled_velocity, gaussian.clean_estimate)
    with jaxtyped("context"):
        assert fit(Float32[Tensor, "b n c"], Z, *(each(Z, Z, level) for each in maps))
        assert fit(Float32[Tensor, "b"], *level, *SCHEDULE.rotation(T, T / 2), SCHEDULE.time_of_alpha(T))
        assert fit(Float32[Tensor, "b 1 1"], gaussian.expand(T, Z))


def test_times_are_vectors_and_the_grid_is_double() -> None:
    low = times.low_discrepancy(0.3, torch.arange(B), B)
    with jaxtyped("context"):
        assert fit(Float32[Tensor, "b"], T, low, times.logit_normal(T, -1.0, 1.0), *times.ordered_pair(low, T))
        assert fit(Float64[Tensor, "5"], times.sampling_grid(4))


def test_augmentations_give_values_and_visible_vectors() -> None:
    first, uniform = torch.tensor([True, False, True]), torch.rand(B, N, C)
    features, seen = augment.augment_features(
        Z, first=first, uniform=uniform, noise=Z, sigma_feat=0.5, p_feat_mask=0.5, unit="element"
    )
    latents, visible = augment.augment_latents(
        Z,
        first=first,
        drop=torch.rand(B),
        uniform=uniform,
        noise=Z,
        mean=torch.zeros(N, C),
        std=torch.ones(N, C),
        p_latent_drop=0.5,
        p_latent_mask=0.5,
    )
    with jaxtyped("context"):
        assert fit(Float32[Tensor, "b n c"], Z, features, latents)
        assert fit(Bool[Tensor, "b n"], seen, visible)


def test_objectives_give_one_loss_an_example_in_single_precision() -> None:
    rows = objectives.token_nll(lambda hidden: hidden, torch.zeros(L, K), torch.zeros(L, dtype=torch.long), 2)
    nll = objectives.masked_nll(rows, torch.ones(L), 10)
    low = Z.bfloat16()
    pair = objectives.along_ode(lambda z, t, r: gaussian.expand(t - r, z) * z, Z, T, T / 2, Z)
    target = objectives.meanflow_target(Z, T, T / 2, pair[1])
    with jaxtyped("context"):
        assert fit(Float32[Tensor, "m"], rows)
        assert fit(Float32[Tensor, ""], nll)
        assert fit(Float32[Tensor, "b n c"], Z, *pair, target)
        assert fit(Float32[Tensor, "b"], *objectives.adaptive_loss(low, low, 5.0), objectives.per_example_mse(low, low))


def test_samplers_keep_the_shape_of_their_noise() -> None:
    noises = torch.randn(B, 1, N, C, generator=torch.Generator().manual_seed(0))
    with jaxtyped("context"):
        assert fit(Float32[Tensor, "b n c"], Z, ode.probability_flow(lambda z, t, z_self: z / 2, Z, SCHEDULE, 2))
        few = ode.average_velocity_steps(lambda z, t, r, z_self: z / 2, Z, SCHEDULE, 2, noises, 0.8)
        assert fit(Float32[Tensor, "b n c"], few)


def test_times_and_noise_have_the_stated_shapes() -> None:
    with jaxtyped("context"):
        assert fit(Float32[Tensor, "b l"], times.spread_times(torch.rand(B, L)))
        assert fit(Float64[Tensor, "5"], SCHEDULE.sampling_times(4))
        assert fit(Float32[Tensor, "b n c"], Z, gaussian.noise_in(Z, Z, SCHEDULE(torch.full((B,), 0.5))))


def test_decoding_hands_over_rows_of_the_stated_shapes() -> None:
    logits, points = torch.zeros(L, K), torch.rand(L, dtype=torch.float64)
    tokens, probability = draw.draw_tokens(logits, points, top_p=0.9)
    with jaxtyped("context"):
        assert fit(Int64[Tensor, "m"], tokens)
        assert fit(Float64[Tensor, "m"], points, probability, draw.next_uniform(points))
        assert fit(Float32[Tensor, "m k"], draw.tempered_weights(logits, 1.0))

    def body(x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        with jaxtyped("context"):
            assert fit(Int64[Tensor, "b"], rows)
            assert fit(Int64[Tensor, "b l"], x_t)
            assert fit(Bool[Tensor, "b l"], select)
        return torch.zeros(*x_t.shape, C)[select]

    def head(hidden: Tensor) -> Tensor:
        assert fit(Float32[Tensor, f"m {C}"], hidden)
        return torch.zeros(len(hidden), K)

    x = torch.full((B, L), K)
    out = unmask.unmask(
        body,
        head,
        x,
        K,
        torch.rand(B, L),
        torch.rand(B, L, dtype=torch.float64),
        unmask.Decoding(3, order="confidence"),
    )
    with jaxtyped("context"):
        assert fit(Int64[Tensor, "b l"], x, out)
