"""What a slip of the keyboard, or a habit of another program, is answered with."""

import pytest

from ..command_line import Cli

EXTRA = "got unexpected extra argument(s) (extra)"
NO_VALUE = "option '{}' requires an argument"
HINTS = [
    ("sample extra", f"{EXTRA}; a model is named by --model, a prompt by --prompt, or see diladiff sample --help"),
    ("export extra", f"{EXTRA}; a model is named by --model, or see diladiff export --help"),
    ("train-ae extra", f"{EXTRA}; see diladiff train-ae --help"),
    ("sample --n", f"{NO_VALUE.format('--n')}; see diladiff sample --help"),
    ("--debug bench --seeds", f"{NO_VALUE.format('--seeds')}; see diladiff bench --help"),
    ("sample --modle x", "no such option: --modle; did you mean --model or --order or --solver?"),
    ("sample --temprature x", "no such option: --temprature; did you mean --temperature or --trace?"),
    ("train-mdlm --beta 1", "no such option: --beta; did you mean --beta2 or --beta1 or --data?"),
    ("train-prior --lr 3", "no such option: --lr; did you mean --learning-rate?"),
    ("sample --bs 3", "no such option: --bs; did you mean --batch-size?"),
    ("sample --prompt", f"{NO_VALUE.format('--prompt')}; see diladiff sample --help"),
    ("sample --prompts hi", "no such option: --prompts; did you mean --prompt?"),
    ("sample -x 3", "no such option: -x; see diladiff sample --help"),
    ("sample --zzzz", "no such option: --zzzz; see diladiff sample --help"),
    ("-x", "no such option: -x; see diladiff --help"),
    ("--lr", "no such option: --lr; did you mean --help?"),
    ("sample --trace -", "--trace - is stdout, which is for samples; name a file"),
]


@pytest.mark.parametrize(("line", "hint"), HINTS, ids=[line for line, _ in HINTS])
def test_a_slip_is_answered_with_what_was_meant(cli: Cli, line: str, hint: str) -> None:
    found = cli(*line.split())
    assert (found.status, found.out, found.errors) == (2, "", [f"error: {hint}"])
