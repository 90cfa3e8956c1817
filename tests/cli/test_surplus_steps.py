"""More decoding steps than tokens."""

import pytest

from ..chain import Chain
from ..command_line import Cli


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--decode-steps", "16"), None),
        (("--decode-steps", "17"), "17 is more than the 16 tokens of a text: a step for each, "),
        (("--decode-steps", "40", "--order", "confidence"), "40 is more than the 16 tokens of a text: with --order "),
    ],
)
def test_more_decoding_steps_than_tokens_are_told(
    cli: Cli, tiny_chain: Chain, options: tuple[str, ...], line: str | None
) -> None:
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "1", *options)
    assert (found.status, len(found.out.splitlines())) == (0, 1)
    assert len(found.errors) == (line is not None)
    assert found.err.startswith("" if line is None else f"--decode-steps {line}")


def test_bench_tells_it_once_for_all_models_and_temperatures(cli: Cli, tiny_chain: Chain) -> None:
    points = ("--temperatures", "1,0.8", "--seeds", "0", "--n", "2", "--scorer", "none", "--steps", "1")
    found = cli(
        "bench", "--model", tiny_chain.student, "--against", tiny_chain.mdlm, "--decode-steps", "16,20", *points
    )
    assert found.status == 0, found.err
    assert [line for line in found.errors if "is more than" in line] == [
        "--decode-steps 20 is more than the 16 tokens of a text: "
        "a step for each, the most that published figures have, is about as good"
    ]
