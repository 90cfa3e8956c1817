import math
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from diladiff_cli.config import (
    AUGMENTATIONS,
    SECTIONS,
    AeConfig,
    BenchConfig,
    DistillConfig,
    MdlmConfig,
    SampleConfig,
    StageConfig,
    resolve,
    use,
)
from diladiff_cli.core.ode import SELF_COND, SOLVERS
from diladiff_cli.core.unmask import ADAPTIVE_ORDERS, ORDERS
from diladiff_cli.presets import PRESETS
from diladiff_cli.settings import ConfigError, Settings, flag

from .configurations import STRENGTHS

KINDS = sorted(SECTIONS.values(), key=lambda kind: kind.__name__)
FIELDS = [(kind, field) for kind in KINDS for field in fields(kind)]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
each_field = pytest.mark.parametrize(("kind", "field"), FIELDS, ids=[f"{k.__name__}.{f.name}" for k, f in FIELDS])


def test_whole_numbers_become_floats_where_floats_are_meant() -> None:
    config = AeConfig.from_dict({"learning_rate": 1, "sigma_feat": 0})
    assert [type(v) for v in (config.learning_rate, config.sigma_feat)] == [float, float]


@each_field
def test_every_option_has_help_and_a_valid_default(kind: type[Settings], field: Any) -> None:
    assert field.metadata["help"].endswith((".", ")"))
    assert field.default is not MISSING
    assert type(field.default) is get_type_hints(kind)[field.name]


@each_kind
def test_defaults_make_a_configuration(kind: type[Settings]) -> None:
    assert kind().to_dict() == {f.name: f.default for f in fields(kind)}


@pytest.mark.parametrize("stage", SECTIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resolves_for_every_stage(preset: str, stage: str) -> None:
    config = resolve(stage, preset)
    assert type(config) is SECTIONS[stage]
    assert PRESETS[preset].get(stage, {}).items() <= config.to_dict().items()
    assert set(PRESETS[preset]) <= set(SECTIONS)


def bad_values(kind: type, metadata: Any) -> list[Any]:
    """One value for each way to be wrong: type, range, choice, not a number."""
    low, high = metadata["low"], metadata["high"]
    bad: dict[type, list[Any]] = {bool: ["yes", 1], int: [True, 1.5, "1"], float: [True, "x", math.nan, math.inf]}
    found = [None, [], *bad.get(kind, [7])]
    found += [kind(low - 1)] if low is not None else []
    found += [kind(high + 1)] if high is not None else []
    return [*found, "no such choice"] if metadata["choices"] else found


@each_field
def test_every_bad_value_is_told_with_option_value_and_remedy_in_one_line(kind: type[Settings], field: Any) -> None:
    for value in bad_values(get_type_hints(kind)[field.name], field.metadata):
        with pytest.raises(ConfigError) as error:
            kind(**{field.name: value})
        (problem,) = error.value.problems
        what, _, remedy = problem.partition("; ")
        assert what.startswith(flag(field.name) + " is ")
        assert what.endswith((repr(value), str(value)))
        assert remedy.startswith(("give ", "choose "))
        assert "\n" not in problem


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        MdlmConfig.from_dict({"lenght": 3, "seed": -1, "precision": "fp16", "learning_rate": "fast"})
    assert error.value.problems == [
        "unknown setting 'lenght'; see --help for the names",
        "--seed is -1; give at least 0",
        "--learning-rate is 'fast'; give a number",
        "--precision is 'fp16'; choose one of auto, bf16, fp32",
    ]
    assert str(error.value).splitlines() == [
        "unknown setting 'lenght'; see --help for the names",
        "seed is -1; give at least 0",
        "learning_rate is 'fast'; give a number",
        "precision is 'fp16'; choose one of auto, bf16, fp32",
    ]


def test_as_text_problems_name_settings_as_python_does_and_leave_all_else_alone() -> None:
    error = ConfigError(["--data /a--b/--c_d is not a multiple of --grad-accum 3; launch with --multi_gpu"])
    assert str(error) == "data /a--b/--c_d is not a multiple of grad_accum 3; launch with --multi_gpu"
    assert error.problems[0].startswith("--data ")


@pytest.mark.parametrize(
    ("stage", "values", "names"),
    [
        ("mdlm", {"batch_size": 10, "grad_accum": 3}, ["--batch-size 10", "--grad-accum 3"]),
        ("prior", {"width": 100, "heads": 12}, ["--width 100", "--heads 12"]),
        ("ae", {"sigma_feat": -0.5}, ["--sigma-feat is -0.5", "--augmentation"]),
    ],
)
def test_settings_that_contradict_each_other_are_named(stage: str, values: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(stage, options=values)
    (problem,) = error.value.problems
    assert all(name in problem for name in names)
    assert problem.count(";") == 1


def test_problems_of_preset_file_and_options_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        resolve("ae", "huge", tmp_path / "none.toml", {"seed": -1})
    problems = error.value.problems
    assert [problem.split(" is ")[0] for problem in problems[::2]] == ["--preset", "--seed"]
    assert problems[0] == "--preset is 'huge'; choose one of demo, small, owt"
    assert problems[1].startswith(f"--config {tmp_path / 'none.toml'} cannot be read")


PUBLISHED = {
    "strong": (0.5, 0.7, 0.7, 0.75),
    "mild": (0.4, 0.5, 0.5, 0.75),
    "soft": (0.3, 0.3, 0.4, 0.75),
    "dropout-50": (0.5, 0.7, 0.7, 0.5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_augmentation_presets_are_the_published_table(name: str) -> None:
    assert set(AUGMENTATIONS) == set(PUBLISHED)
    strengths = AeConfig(augmentation=name).augmentation_strengths()
    assert strengths == dict(zip(STRENGTHS, PUBLISHED[name], strict=True))


@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("value", [0.0, 0.2])
def test_an_option_overrides_one_strength_of_its_preset(name: str, value: float) -> None:
    changed = AeConfig(augmentation="mild", **{name: value}).augmentation_strengths()
    assert changed == AeConfig(augmentation="mild").augmentation_strengths() | {name: value}


def test_owt_preset_is_the_published_configuration() -> None:
    published = {
        "mdlm": {"max_steps": 1_000_000, "batch_size": 512, "learning_rate": 3e-4, "warmup_steps": 1000, "width": 768}
        | {"layers": 12, "heads": 12, "positions": "learned", "qk_norm": True, "lr_schedule": "cosine"},
        "ae": {"max_steps": 200_000, "batch_size": 512, "learning_rate": 5e-5, "warmup_steps": 1000}
        | {"decoder_warmup_steps": 10_000, "compression": 2, "latent_width": 768, "encoder_layers": 2}
        | {"augmentation": "strong", "cross_layers": "first,last", "features": "google-bert/bert-base-uncased"},
        "prior": {"max_steps": 150_000, "batch_size": 512, "learning_rate": 2e-4, "schedule_d": 10.0},
        "student": {"max_steps": 25_000, "batch_size": 2048, "learning_rate": 5e-5, "tangent_warmup_steps": 10_000}
        | {"p_equal": 0.25, "p_self_cond": 0.5, "time_mean": -1.0, "time_std": 1.0, "adaptive_constant": 5.0},
        "data": {"length": 1024, "tokenizer": "bert-base-uncased", "valid_share": 100_000 / 8_000_000},
        "sample": {"temperature": 1.0, "top_p": 0.9, "gamma": 0.8},
    }
    for stage, values in published.items():
        assert values.items() <= resolve(stage, "owt").to_dict().items()


def test_cross_layers_are_names_or_numbers_of_layers() -> None:
    assert AeConfig().cross_layer_indices(12) == (0, 11)
    assert AeConfig(cross_layers="last, 5,0").cross_layer_indices(8) == (0, 5, 7)
    assert AeConfig().cross_layer_indices(1) == (0,)
    with pytest.raises(ConfigError, match=r"cross_layers has '4'; use first, last or 0 to 3"):
        AeConfig(cross_layers="first,4").cross_layer_indices(4)
    for wrong in ("middle", "-1", "²", "first,", "first;last", "9" * 5000):
        with pytest.raises(ConfigError, match=r"cross_layers has .*; use first, last or numbers from 0"):
            AeConfig(cross_layers=wrong)


def test_training_stages_share_the_options_of_training() -> None:
    for stage in ("mdlm", "ae", "prior", "student"):
        assert issubclass(SECTIONS[stage], StageConfig)


def test_a_whole_number_that_no_float_can_be_is_told_with_the_rest() -> None:
    with pytest.raises(ConfigError) as caught:
        MdlmConfig.from_dict({"learning_rate": 10**400, "seed": -1})
    assert [problem.split()[0] for problem in caught.value.problems] == ["--seed", "--learning-rate"]


def test_warm_ups_that_will_not_be_over_are_told() -> None:
    assert MdlmConfig(max_steps=2000).notes() == []
    found = AeConfig(max_steps=1000).notes()
    assert [note.split(" is not less")[0] for note in found] == ["--warmup-steps 1000", "--decoder-warmup-steps 10000"]
    assert all("--max-steps 1000" in note for note in found)
    assert len(DistillConfig(max_steps=20, warmup_steps=0).notes()) == 1


def test_the_options_know_the_orders_of_the_sampler() -> None:
    (order,) = (field for field in fields(SampleConfig) if field.name == "order")
    assert order.metadata["choices"] == ORDERS
    assert use.ADAPTIVE_ORDERS == ADAPTIVE_ORDERS


@pytest.mark.parametrize("kind", [SampleConfig, BenchConfig])
@pytest.mark.parametrize(("name", "choices"), [("solver", tuple(SOLVERS)), ("self_cond", SELF_COND)])
def test_the_options_know_the_ways_of_drawing_latents(
    kind: type[SampleConfig] | type[BenchConfig], name: str, choices: tuple[str, ...]
) -> None:
    (known,) = (field for field in fields(kind) if field.name == name)
    assert known.metadata["choices"] == choices


@pytest.mark.parametrize("kind", [SampleConfig, BenchConfig])
def test_a_time_to_take_over_is_refused_where_steps_have_none(kind: type[SampleConfig] | type[BenchConfig]) -> None:
    for order in ORDERS:
        if order in ADAPTIVE_ORDERS:
            with pytest.raises(ConfigError, match=f"^latent_until is 0.5, and order {order} ends when the predictions"):
                kind(order=order, latent_until=0.5)
        else:
            assert kind(order=order, latent_until=0.5).latent_until == 0.5
