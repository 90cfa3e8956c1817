"""Settings from files, as ``--config`` reads them."""

import json
from pathlib import Path

import pytest

from diladiff_cli.config import SECTIONS, AeConfig, MdlmConfig, read_config_file, resolve
from diladiff_cli.config.training import AUGMENTATIONS
from diladiff_cli.presets import PRESETS
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.settings import LIST, ConfigError

from .chain import Chain
from .configurations import to_toml


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("written", "field", "wanted"),
    [
        ("seeds = [0, 1]", "seeds", "0,1"),
        ("seeds = 3", "seeds", "3"),
        ("temperatures = [1.0, 0.85]", "temperatures", "1.0,0.85"),
        ("decode-steps = ['4', 8]", "decode_steps", "4,8"),
        ("decode_steps = []", "decode_steps", ""),
    ],
)
def test_lists_in_a_file_may_be_lists(tmp_path: Path, written: str, field: str, wanted: str) -> None:
    config = resolve("bench", file=write(tmp_path / "c.toml", f"[bench]\n{written}\n"))
    assert getattr(config, field) == wanted


@pytest.mark.parametrize(
    ("stage", "written", "problem"),
    [
        ("bench", "seeds = [0, 0.5]", "--seeds is '0,0.5'; give whole numbers of at least 0, separated by commas"),
        ("bench", "seeds = [[0], 1]", f"--seeds is [[0], 1]; give {LIST}"),
        ("bench", "seeds = [true]", f"--seeds is [True]; give {LIST}"),
        ("bench", "seeds = 0x" + "f" * 5000, f"--seeds is too long a number; give {LIST}"),
        ("bench", "scorer = ['auto']", "--scorer is ['auto']; give a text"),
        ("ae", "cross_layers = [0, 'middle']", "--cross-layers has 'middle'; use first"),
    ],
)
def test_other_lists_in_a_file_are_refused(tmp_path: Path, stage: str, written: str, problem: str) -> None:
    file = write(tmp_path / "c.toml", f"[{stage}]\n{written}\n")
    with pytest.raises(ConfigError) as caught:
        resolve(stage, file=file)
    assert caught.value.problems[0].startswith(f"--config {file}: {problem}")


def test_later_sources_win_over_earlier_ones(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "ema_decay = 0.5\nwarmup_steps = 7\n[mdlm]\nwarmup_steps = 8\nlayers = 3\n")
    config = resolve("mdlm", "demo", file, {"layers": 2})
    found = (config.beta1, config.width, config.ema_decay, config.warmup_steps, config.layers)
    assert found == (MdlmConfig().beta1, PRESETS["demo"]["mdlm"]["width"], 0.5, 8, 2)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_file_serves_every_stage_with_its_table_and_the_common_keys_it_knows(tmp_path: Path, suffix: str) -> None:
    tables = {"mdlm": {"layers": 2}, "prior": {"layers": 3, "seed": 9}}
    common = {"seed": 5, "compression": 4}
    toml = "\n".join([to_toml(common), *(f"[{name}]\n{to_toml(values)}" for name, values in tables.items())])
    file = write(tmp_path / f"c{suffix}", toml if suffix == ".toml" else json.dumps(common | tables))
    found = {stage: read_config_file(file, stage)[0] for stage in ("mdlm", "prior", "ae", "sample")}
    assert found == {
        "mdlm": {"layers": 2, "seed": 5},
        "prior": {"layers": 3, "seed": 9},
        "ae": {"seed": 5, "compression": 4},
        "sample": {"seed": 5},
    }


def test_wrong_tables_and_keys_of_a_file_are_told_together(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "lenght = 3\nwitdh = 2\n[mdml]\nlayers = 2\n")
    with pytest.raises(ConfigError) as error:
        resolve("mdlm", file=file)
    assert error.value.problems == [
        f"--config {file} has the table [mdml]; use {', '.join(SECTIONS)}",
        f"--config {file} has 'lenght', which no stage knows; did you mean length?",
        f"--config {file} has 'witdh', which no stage knows; did you mean width?",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.toml", b"layers = "),
        ("c.json", b"{"),
        ("c.json", b"[1, 2]"),
        ("c.toml", b"\xff"),
        ("c.toml", b"layers = 2\nlayers = 3"),
        ("c.json", b'{"layers": 2, "layers": 3}'),
        ("c.json", b'{"mdlm": {"layers": 2, "width": 64, "layers": 2}}'),
        ("folder", None),
    ],
)
def test_an_unreadable_file_is_named_with_the_remedy(tmp_path: Path, name: str, content: bytes | None) -> None:
    file = tmp_path / name
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_config_file(file, "mdlm")
    (problem,) = error.value.problems
    assert problem.startswith(f"--config {file} cannot be read (")
    assert problem.endswith("); mend it, or give another file" if content else "); give a TOML or JSON file")
    assert "\n" not in problem


def test_the_folder_of_an_artifact_is_told_what_to_give_of_it(tiny_chain: Chain) -> None:
    with pytest.raises(ConfigError, match=rf"cannot be read \(.*\); give {tiny_chain.mdlm}/config.json$"):
        read_config_file(tiny_chain.mdlm, "mdlm")
    assert read_config_file(str(tiny_chain.mdlm / "config.json"), "mdlm")[1] == []  # a path as text


def test_the_config_of_an_artifact_repeats_its_training(tiny_chain: Chain) -> None:
    for stage in ("mdlm", "ae", "prior", "student"):
        file = getattr(tiny_chain, stage) / "config.json"
        assert resolve(stage, file=file).to_dict() == load_artifact(file.parent).training
        changed = resolve(stage, file=file, options={"seed": 5, "max_steps": 7}).to_dict()
        assert changed == load_artifact(file.parent).training | {"seed": 5, "max_steps": 7}
        for other in ("sample", "data", "ae" if stage == "mdlm" else "mdlm"):
            with pytest.raises(ConfigError, match="is of an? .*, and has no settings for this; give that of another"):
                read_config_file(file, other)


def test_the_config_of_data_is_none_of_a_command(tiny_chain: Chain) -> None:
    with pytest.raises(ConfigError, match="is of a token data set, and has no settings for this"):
        read_config_file(tiny_chain.data / "config.json", "data")


def test_options_win_over_what_an_artifact_was_trained_with(tmp_path: Path) -> None:
    training = {"stage": "ae", "format_version": 2, "training": AeConfig(augmentation="mild", seed=3).to_dict()}
    file = write(tmp_path / "config.json", json.dumps(training))
    config = resolve("ae", file=file, options={"augmentation": "soft"})
    assert config.seed == 3
    assert config.augmentation_strengths() == AUGMENTATIONS["soft"]


def test_a_name_that_is_twice_in_a_json_file_is_told(tmp_path: Path) -> None:
    file = write(tmp_path / "c.json", '{"mdlm": {"layers": 2, "width": 64, "layers": 3}}')
    with pytest.raises(ConfigError, match="cannot be read \\('layers' is there twice\\)"):
        read_config_file(file, "mdlm")


def test_bad_values_of_a_file_are_told_with_its_name_unless_an_option_takes_their_place(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[mdlm]\nmax_steps = "five"\nlayers = -1\nwidth = 64\nheads = 5\n')
    with pytest.raises(ConfigError) as error:
        resolve("mdlm", file=file, options={"layers": 2, "seed": -1})
    assert error.value.problems == [
        "--seed is -1; give at least 0",
        f"--config {file}: --max-steps is 'five'; give a whole number",
        f"--config {file}: --width 64 is not a multiple of twice --heads 5; change one",
    ]


def test_values_of_a_file_are_checked_like_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers is 0; give at least 1"):
        resolve("mdlm", file=write(tmp_path / "c.toml", "[mdlm]\nlayers = 0"))
    with pytest.raises(ConfigError, match=r"has 'layer' in \[mdlm\]; did you mean layers"):
        resolve("mdlm", file=write(tmp_path / "d.toml", "[mdlm]\nlayer = 2"))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("[bench]\nsedes = 1", "'sedes' in [bench]; did you mean seeds?"),
        ("[bench]\nsamples = 1", "'samples' in [bench]; see --help for the names"),
        ("[bench]\ntemp = 1", "'temp' in [bench]; did you mean temperatures?"),
        ("[train-mdlm]\nlayers = 2", "the table [train_mdlm]; did you mean [mdlm]?"),
        ("[distill]\ngamma = 2", "the table [distill]; did you mean [student]?"),
        ("[encode]\nlength = 2", "the table [encode]; did you mean [data]?"),
    ],
)
def test_names_that_a_file_gets_wrong_are_told_with_their_place(tmp_path: Path, written: str, told: str) -> None:
    file = write(tmp_path / "c.toml", written)
    with pytest.raises(ConfigError) as error:
        resolve("bench", file=file)
    assert error.value.problems == [f"--config {file} has {told}"]


def test_what_else_is_wrong_with_a_file_is_told_with_its_unknown_names(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "witdh = 1\n[mdlm]\nlayer = 3\nwidth = 100\nmax_steps = 0\n")
    with pytest.raises(ConfigError) as error:
        resolve("mdlm", file=file, options={"heads": 10})
    assert error.value.problems == [
        f"--config {file} has 'layer' in [mdlm]; did you mean layers?",
        f"--config {file} has 'witdh', which no stage knows; did you mean width?",
        f"--config {file}: --max-steps is 0; give at least 1",
    ]


def test_a_file_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        resolve("bench", file=tmp_path / "c.toml")
    told = f"--config {tmp_path}/c.toml cannot be read (No such file or directory); give a TOML or JSON file"
    assert error.value.problems == [told]


def test_names_in_a_file_may_be_those_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("batch-size = 6\n[mdlm]\nmax-steps = 3\n")
    config = resolve("mdlm", file=file)
    assert (config.batch_size, config.max_steps) == (6, 3)


def test_a_name_spelled_in_two_ways_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("max-steps = 6\nmax_steps = 7\n[mdlm]\nbatch_size = 6\nbatch-size = 6\n[coat]\n")
    with pytest.raises(ConfigError) as caught:
        resolve("mdlm", file=file)
    assert caught.value.problems[:2] == [
        f"--config {file} sets max_steps and max-steps; leave one out",
        f"--config {file} sets batch_size and batch-size in [mdlm]; leave one out",
    ]
    assert "has the table [coat]" in caught.value.problems[2]
