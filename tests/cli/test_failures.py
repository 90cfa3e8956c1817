import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.cli.command import Command, command
from diladiff_cli.cli.failures import explain, wants_debug, without_debug
from diladiff_cli.cli.output import ClosedPipeError
from diladiff_cli.config import MdlmConfig, SampleConfig
from diladiff_cli.errors import UserError, is_out_of_memory
from diladiff_cli.settings import ConfigError, Settings
from diladiff_cli.shipped import SHIPPED_MODEL

from ..chain import Chain
from ..command_line import Cli, environment
from .scripts import finish, start

NAMES = "encode, train-mdlm, train-ae, train-prior, distill, sample, eval, bench, plot, info, export"
WRONG_USAGE: list[tuple[str, list[str]]] = [
    ("", [f"error: missing command; give one of {NAMES}, or see diladiff --help"]),
    ("trian-ae", ["error: no such command 'trian-ae'; did you mean 'train-ae'?"]),
    ("draw", [f"error: no such command 'draw'; give one of {NAMES}, or see diladiff --help"]),
    ("sample --temprature 2", ["error: no such option: --temprature; did you mean --temperature or --trace?"]),
    ("eval", ["error: missing argument 'TARGET'; see diladiff eval --help"]),
    ("train-mdlm --batch-size x", ["error: --batch-size is 'x'; give a whole number"]),
    ("train-mdlm --max-steps 1.5", ["error: --max-steps is '1.5'; give a whole number"]),
    ("train-mdlm --learning-rate nan", ["error: --learning-rate is nan; give a finite number"]),
    ("train-mdlm --width -3", ["error: --width is -3; give at least 2"]),
    ("sample --top-p 1.5", ["error: --top-p is 1.5; give at most 1"]),
    ("distill --velocity fast", ["error: --velocity is 'fast'; choose one of ode, sampled"]),
    ("sample --format xml", ["error: --format is 'xml'; choose one of jsonl, text"]),
    ("train-prior --preset huge", ["error: --preset is 'huge'; choose one of demo, small, owt"]),
    (
        "train-mdlm --width 10 --heads 3 --batch-size 7 --grad-accum 2",
        [
            "error: --batch-size 7 is not a multiple of --grad-accum 2; change one",
            "error: --width 10 is not a multiple of twice --heads 3; change one",
        ],
    ),
    (
        "train-ae --batch-size x --compression 0 --augmentation odd --learning-rate -1",
        [
            "error: --batch-size is 'x'; give a whole number",
            "error: --learning-rate is -1.0; give at least 0",
            "error: --compression is 0; give at least 1",
            "error: --augmentation is 'odd'; choose one of strong, mild, soft, dropout-50",
        ],
    ),
    (
        "encode some.txt --batch-size 3 --data data --fresh",
        [
            "error: --data needs --ae; name the auto-encoder",
            "error: --batch-size needs --ae; name the auto-encoder",
        ],
    ),
    (
        "bench --speed --steps 1 --n 8 --out x --model nowhere",
        [
            "error: --n has no meaning with --speed; leave it out",
            "error: --steps has no meaning with --speed; leave it out",
            "error: --out has no meaning with --speed, which keeps nothing; leave it out",
            "error: models have no meaning with --speed, which makes its own networks; leave them out",
        ],
    ),
    ("bench --lengths 8", ["error: --lengths is for --speed; leave it out"]),
    (
        "bench --steps 0 --temperatures a,b --n 5",
        [
            "error: --steps is '0'; give whole numbers of at least 1, separated by commas",
            "error: --temperatures is 'a,b'; give numbers of at least 0, separated by commas",
            "error: --n 5 is not a multiple of --decodings 2; change one",
        ],
    ),
    (
        "encode some.txt --ae ckpt/ae --length 32 --dry-run",
        [
            "error: TEXT has no meaning with --ae; leave it out",
            "error: --length has no meaning with --ae; leave it out",
        ],
    ),
]

FAILED: list[tuple[str, str]] = [
    ("train-mdlm", "error: there is no folder data; give a token data set (--data), which encode TEXT writes"),
    ("train-ae", "error: there is no folder ckpt/mdlm; give a base (--base), which train-mdlm writes"),
    ("train-prior --ae no", "error: there is no folder no; give an auto-encoder (--ae), which train-ae writes"),
    ("distill", "error: there is no folder ckpt/prior; give a prior (--prior), which train-prior writes"),
    ("encode --ae ckpt/ae", "error: there is no folder ckpt/ae; give an auto-encoder (--ae), which train-ae writes"),
    ("encode missing.txt", "error: there is no file or folder missing.txt; check the path"),
    (
        "sample --model nowhere",
        "error: there is no folder nowhere; "
        "give a model, which train-mdlm, train-ae, train-prior or distill writes, shipped, or hf://USER/NAME",
    ),
    (
        "eval missing.jsonl",
        "error: cannot read missing.jsonl (No such file or directory); give a file that `diladiff sample` wrote, "
        "or an artifact",
    ),
    ("info nowhere", "error: there is no folder nowhere; "),
    ("export --model nowhere", "error: there is no folder nowhere; give a model, which "),
]


@pytest.mark.parametrize(("line", "errors"), WRONG_USAGE, ids=[line or "nothing" for line, _ in WRONG_USAGE])
def test_wrong_usage_is_told_in_one_line_for_each_problem(cli: Cli, line: str, errors: list[str]) -> None:
    found = cli(*line.split())
    assert (found.status, found.out, found.errors) == (2, "", errors)


@pytest.mark.parametrize(("line", "error"), FAILED, ids=[line for line, _ in FAILED])
def test_what_is_missing_is_named_with_the_remedy(cli: Cli, line: str, error: str) -> None:
    found = cli(*line.split())
    assert (found.status, found.out) == (1, "")
    assert len(found.errors) == 1
    assert found.errors[0].startswith(error)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "sample --model ckpt/studnet",
            "there is no folder ckpt/studnet; did you mean ckpt/student? Otherwise give a ",
        ),
        (
            "encode storys.txt",
            "there is no file or folder storys.txt; did you mean stories.txt? Otherwise check the path",
        ),
        ("encode other.txt", "there is no file or folder other.txt; check the path"),
    ],
)
def test_a_path_that_is_almost_there_is_asked_after(cli: Cli, tmp_path: Path, line: str, error: str) -> None:
    (tmp_path / "ckpt" / "student").mkdir(parents=True)
    (tmp_path / "stories.txt").touch()
    found = cli(*line.split())
    assert (found.status, found.errors[-1].startswith(f"error: {error}")) == (1, True), found.err


def test_a_parent_of_the_wrong_stage_is_named_with_the_command_that_makes_the_right_one(
    cli: Cli, tiny_chain: Chain
) -> None:
    found = cli("train-prior", "--ae", tiny_chain.mdlm, "--dry-run")
    assert (found.status, found.out) == (1, "")
    assert found.errors == [f"error: {tiny_chain.mdlm} is a base; give an auto-encoder, which train-ae writes"]


def test_a_missing_grandparent_is_named(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(tiny_chain.student, tmp_path / "ckpt" / "student")
    found = cli("sample", "--n", "1")
    assert (found.status, found.out) == (1, "")
    assert found.errors[0] == "model: ./ckpt/student"
    assert found.errors[1].startswith("error: ckpt/student builds on ")
    assert "ckpt/ae, which is missing; put it back" in found.errors[1]


def test_latents_of_another_auto_encoder_are_refused(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    other = tmp_path / "other"
    width = ["--latent-width", "4", "--encoder-layers", "1", "--max-steps", "1", "--precision", "fp32"]
    assert cli("train-ae", "--base", tiny_chain.mdlm, "--out", other, "--batch-size", "8", *width).status == 0
    assert cli("encode", "--ae", other, "--out", "latents").status == 0
    found = cli("train-prior", "--ae", tiny_chain.ae, "--latents", "latents")
    assert found.status == 1
    assert found.errors[-1].startswith("error: latents holds latents of another auto-encoder; run encode --ae")


def test_an_unforeseen_error_is_one_line_and_with_debug_a_traceback() -> None:
    line = "error: RuntimeError: odd; for the traceback add --debug\n"
    body = "raise RuntimeError('odd.\\nmore of it')"
    assert finish(start(body)) == (1, "", line)
    for process in (start(body, ("--debug", "try")), start(body, DILADIFF_DEBUG="1")):
        status, out, err = finish(process)
        assert (status, out) == (1, "")
        assert err.startswith("Traceback (most recent call last):")
        assert err.endswith(f"RuntimeError: odd.\nmore of it\n{line}")


def test_an_error_of_the_user_shows_its_traceback_with_debug_alone() -> None:
    body = "from diladiff_cli.errors import UserError\nraise UserError('no data', 'make some')"
    assert finish(start(body))[2] == "error: no data; make some\n"
    assert finish(start(body, ("--debug", "try")))[2].startswith("Traceback")


def test_ctrl_c_while_the_command_line_is_loaded_is_told_as_at_any_other_time() -> None:
    code = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from diladiff_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "variable", "wanted"),
    [
        ([], "", False),
        (["--debug", "info"], "", True),
        (["info", "--debug"], "", True),
        (["eval", "--", "--debug"], "", False),
        (["info"], "1", True),
        (["info"], "0", False),
    ],
)
def test_debug_stands_among_the_options_or_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str, wanted: bool
) -> None:
    monkeypatch.setenv("DILADIFF_DEBUG", variable)
    assert wants_debug(arguments) is wanted
    assert without_debug(arguments) == [a for i, a in enumerate(arguments) if a != "--debug" or "--" in arguments[:i]]


def test_a_run_interrupted_after_saving_exits_with_its_signal() -> None:
    from diladiff_cli.runtime.session import Interrupted

    assert explain(Interrupted(15, 7)) == (143, ["interrupted by SIGTERM, step 7 is saved; the same command continues"])
    assert explain(Interrupted(2, None)) == (
        130,
        ["interrupted by SIGINT, nothing is saved; the same command continues"],
    )


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (UserError("bad\nthing", "mend it"), 1, ["error: bad thing; mend it"]),
        (ConfigError(["a; b", "c; d"]), 2, ["error: a; b", "error: c; d"]),
        (ClosedPipeError(), 0, []),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (ValueError(), 1, ["error: ValueError; for the traceback add --debug"]),
    ],
)
def test_every_kind_of_error_has_its_status(error: BaseException, status: int, lines: list[str]) -> None:
    assert explain(error) == (status, lines)


def starved(settings: type[Settings] | None, error: BaseException) -> Command:
    """A command whose body runs out of memory."""

    def body(batch_size: int = 8) -> None:
        """Starve."""
        raise error

    def configured(config: Settings) -> None:
        """Starve."""
        raise error

    stage = {MdlmConfig: "mdlm", SampleConfig: "sample"}.get(settings)  # type: ignore[call-overload]
    return command("starve", stage=stage, examples=("starve",))(body if settings is None else configured)


@pytest.mark.parametrize(
    ("settings", "given", "what"),
    [
        (
            MdlmConfig,
            {"batch_size": "64", "grad_accum": "2"},
            "out of memory at --batch-size 64 with --grad-accum 2; try --grad-accum 4, which gives the same numbers",
        ),
        (SampleConfig, {"batch_size": "7"}, "out of memory at --batch-size 7; try --batch-size 3"),
        (None, {"batch_size": 8}, "out of memory at --batch-size 8; try --batch-size 4"),
    ],
)
def test_running_out_of_memory_names_the_batch_size_and_what_to_change(
    capfd: pytest.CaptureFixture[str], settings: type[Settings] | None, given: dict[str, Any], what: str
) -> None:
    import torch

    found = starved(settings, torch.OutOfMemoryError("CUDA out of memory."))
    values = dict.fromkeys(found.signature().parameters) | given
    with pytest.raises(UserError, match=what):
        found.callback()(**values)


def test_memory_runs_out_on_the_cpu_as_well() -> None:
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 20.48 GiB, max allowed: 20 GiB)"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_errors_are_told_apart_without_importing_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = types.SimpleNamespace(**{k: v for k, v in vars(sys).items() if k != "modules"}, modules={})
    monkeypatch.setattr("diladiff_cli.cli.failures.sys", loaded)
    assert explain(UserError("a", "b")) == (1, ["error: a; b"])
    shipped = UserError(f"there is no folder {SHIPPED_MODEL}/parents/base", f"did you mean {SHIPPED_MODEL}?")
    assert explain(shipped) == (1, ["error: there is no folder shipped/parents/base; did you mean shipped?"])
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
