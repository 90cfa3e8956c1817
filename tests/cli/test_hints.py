"""What a slip of the keyboard, or a habit of another program, is answered with."""

import shutil

import pytest

from ..chain import Chain
from ..command_line import Cli

EXTRA = "got unexpected extra argument(s) (extra)"
NO_VALUE = "option '{}' requires an argument"
NO_MODEL = "is not a model; the values of one option go together, as in --temperatures 1.0,0.8"
HINTS = [
    ("sample extra", f"{EXTRA}; a model is named by --model, a prompt by --prompt, or see diladiff sample --help"),
    ("export extra", f"{EXTRA}; a model is named by --model, or see diladiff export --help"),
    ("train-ae extra", f"{EXTRA}; see diladiff train-ae --help"),
    ("sample --n", f"{NO_VALUE.format('--n')}; see diladiff sample --help"),
    ("--debug bench --seeds", f"{NO_VALUE.format('--seeds')}; see diladiff bench --help"),
    ("sample -n 3", "no such option: -n; did you mean --n?"),
    ("sample --tem 0.5", "no such option: --tem; did you mean --temperature?"),
    ("sample --modle x", "no such option: --modle; did you mean --model?"),
    ("sample --ordre x", "no such option: --ordre; did you mean --order?"),
    ("train-mdlm --beta 1", "no such option: --beta; did you mean --beta1 or --beta2?"),
    ("train-prior --lr 3", "no such option: --lr; did you mean --learning-rate?"),
    ("sample --bs 3", "no such option: --bs; did you mean --batch-size?"),
    ("train-mdlm --no-c", "no such option: --no-c; did you mean --no-compile?"),
    ("bench --prompt hi", "no such option: --prompt; it is one of diladiff sample"),
    ("sample --prompt", f"{NO_VALUE.format('--prompt')}; see diladiff sample --help"),
    ("sample --prompts hi", "no such option: --prompts; did you mean --prompt?"),
    ("sample --lat 1", "no such option: --lat; did you mean --latent-scale or --latent-until?"),
    ("sample --seed -5 -n 3", "no such option: -n; did you mean --n?"),
    ("sample -steps 3", "no such option: -s; did you mean --steps?"),
    ("sample -steps=3", "no such option: -s; did you mean --steps?"),
    ("sample -x 3 -steps 4", "no such option: -x; see diladiff sample --help"),
    ("sample --zzzz -steps 4", "no such option: --zzzz; see diladiff sample --help"),
    ("sample -x 3", "no such option: -x; see diladiff sample --help"),
    ("-x", "no such option: -x; see diladiff --help"),
    ("bench --temperatures 1 0.8", f"0.8 {NO_MODEL}"),
    ("bench --temperatures 1.0 0.8,0.7", f"0.8,0.7 {NO_MODEL}"),
    ("bench --against a 0.8", f"0.8 {NO_MODEL}"),
    ("sample --trace -", "--trace - is stdout, which is for samples; name a file"),
]


@pytest.mark.parametrize(("line", "hint"), HINTS, ids=[line for line, _ in HINTS])
def test_a_slip_is_answered_with_what_was_meant(cli: Cli, line: str, hint: str) -> None:
    found = cli(*line.split())
    assert (found.status, found.out, found.errors) == (2, "", [f"error: {hint}"])


def test_a_folder_may_be_called_as_a_number(cli: Cli, tiny_chain: Chain) -> None:
    shutil.copytree(tiny_chain.mdlm, "8")
    found = cli("bench", "8", "0.5", "--data", tiny_chain.data, "--dry-run")
    assert (found.status, found.errors) == (2, [f"error: 0.5 {NO_MODEL}"])
    assert cli("bench", "8", "--data", tiny_chain.data, "--dry-run").status == 0
