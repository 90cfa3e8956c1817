"""Calls with several things wrong: all of them are told at once."""

import json
import os
from pathlib import Path

import pytest

from ..chain import Chain
from ..command_line import Cli
from .bad_values import check_errors

# Calls with several things wrong -> all that is said of them. {chain} is a finished pipeline.
COMBINATIONS: list[tuple[str, list[str]]] = [
    (
        "train-mdlm --width 7 --heads 4 --learning-rate nan --batch-size 7 --grad-accum 2",
        [
            "--learning-rate is nan; give a finite number",
            "--batch-size 7 is not a multiple of --grad-accum 2; change one",
            "--width 7 is not a multiple of twice --heads 4; change one",
        ],
    ),
    (
        "train-mdlm --init {chain}/ckpt/mdlm --positions rotary --layers 3 --data {chain}/data --dry-run",
        [
            "--layers is given, and --init brings its own network; leave it out",
            "--positions is given, and --init brings its own network; leave it out",
        ],
    ),
    ("train-prior --width 12 --heads 0", ["--heads is 0; give at least 1"]),
    (
        "train-ae --sigma-feat -0.5 --p-feat-mask 1.5 --cross-layers first,middle --augmentation none --data=",
        [
            "--data is empty; name a file or folder, or leave it out",
            "--augmentation is 'none'; choose one of strong, mild, soft, dropout-50",
            "--p-feat-mask is 1.5; give at most 1",
            "--sigma-feat is -0.5; give 0 to 1, or -1 for the value of --augmentation",
            "--cross-layers has 'middle'; use first, last or numbers from 0",
        ],
    ),
    (
        "train-ae --base {chain}/ckpt/mdlm --compression 3 --encoder-width 7 --cross-layers first,9 --dry-run",
        [
            "--compression 3 does not divide the length 16; choose a divisor",
            "--encoder-width 7 is not a multiple of twice 2 heads; change it",
            "--cross-layers has '9'; use first, last or 0 to 1",
        ],
    ),
    (
        "encode a.txt --tokenizer= --length 0 --batch-size 0 --precision fp8 --preset big --config none.toml --out=",
        [
            "--out is empty; name a file or folder, or leave it out",
            "--batch-size is 0; give at least 1",
            "--preset is 'big'; choose one of demo, small, owt",
            "--config none.toml cannot be read (No such file or directory); give a TOML or JSON file",
            "--tokenizer is ''; give one that is not empty",
            "--length is 0; give at least 2",
            "--batch-size needs --ae; name the auto-encoder",
            "--precision needs --ae; name the auto-encoder",
            "--precision is 'fp8'; choose one of auto, bf16, fp32",
        ],
    ),
    (
        "encode --ae {chain}/ckpt/ae --valid v.txt --dry-run --seed 3",
        [
            "--valid has no meaning with --ae; leave it out",
            "--seed has no meaning with --ae; leave it out",
        ],
    ),
    (
        "encode --ae {chain}/ckpt/ae --preset demo --config none.toml",
        [
            "--config none.toml cannot be read (No such file or directory); give a TOML or JSON file",
            "--preset has no meaning with --ae; leave it out",
            "--config has no meaning with --ae; leave it out",
        ],
    ),
    (
        "encode a.txt --valid v.txt --valid-share 0.1 --seed 3",
        [
            "--valid-share has no meaning, as --valid names the validation text; leave it out",
            "--seed has no meaning, as --valid names the validation text; leave it out",
        ],
    ),
    (
        "encode --valid-share 0.1",
        ["--valid-share has no meaning, as the text that ships is split already; leave it out"],
    ),
    (
        "encode - --valid - --length 1",
        [
            "--length is 1; give at least 2",
            "- is named twice, and standard input can be read only once; name one of them otherwise",
        ],
    ),
    ("eval - -", ["- is named twice, and standard input can be read only once; name one of them otherwise"]),
    ("plot a -  -", ["- is named twice, and standard input can be read only once; name one of them otherwise"]),
    (
        "sample --format xml --n 0 --temperature 1e-9 --trace=",
        [
            "--trace is empty; name a file or folder, or leave it out",
            "--n is 0; give at least 1",
            "--temperature is 1e-09; give 0 for the likeliest token, or at least 0.0001",
            "--format is 'xml'; choose one of jsonl, text",
        ],
    ),
    (
        "sample --threshold 0.5 --entropy-bound 1 --out a --trace ./a",
        [
            "--trace ./a is the file of --out as well; change one",
            "--threshold is for --order threshold, and the order is random; leave it out",
            "--entropy-bound is for --order entropy, and the order is random; leave it out",
        ],
    ),
    (
        "sample --model {chain}/ckpt/mdlm --n 5 --steps 3 --decodings 2 --gamma 0.5 --data x",
        [
            "--gamma is for a student, and the model is of stage mdlm; leave it out",
            "--data is for an auto-encoder, and the model is of stage mdlm; leave it out",
            "--steps is 3, but {chain}/ckpt/mdlm is of stage mdlm and draws no latents; "
            "leave it out (decoding has --decode-steps)",
            "--decodings is 2, but {chain}/ckpt/mdlm is of stage mdlm and has no latents; leave it out",
            "--n 5 is not a multiple of --decodings 2; change one",
        ],
    ),
    (
        "eval {chain}/ckpt/mdlm --reference a.txt --draws 0",
        [
            "--draws is 0; give at least 1",
            "--reference has no meaning without samples to measure; leave it out",
        ],
    ),
    (
        "eval s.jsonl --data {chain}/data --context -1",
        [
            "--context is -1; give at least 0",
            "--data has no meaning without an artifact to measure; leave it out",
        ],
    ),
    (
        "bench --speed --width 12 --steps 0 --against a --data b --seconds 0 --out x",
        [
            "--seconds is 0.0; give at least 0.01",
            "--steps is '0'; give whole numbers of at least 1, separated by commas",
            "--width 12 is not a multiple of 8, twice the heads; change it",
            "--steps has no meaning with --speed; leave it out",
            "--out has no meaning with --speed, which keeps nothing; leave it out",
            "--data has no meaning with --speed, which makes its own networks; leave it out",
            "models have no meaning with --speed, which makes its own networks; leave them out",
        ],
    ),
    (
        "plot a.jsonl --format png,gif --out=",
        [
            "--out is empty; name a file or folder, or leave it out",
            "--format is 'png,gif'; give one or several of png, svg, pdf, with commas",
        ],
    ),
    (
        "export --precision fp16 --out=",
        [
            "--out is empty; name a file or folder, or leave it out",
            "--precision is 'fp16'; choose one of bf16, fp32",
        ],
    ),
]


@pytest.mark.parametrize(("line", "problems"), COMBINATIONS, ids=[line for line, _ in COMBINATIONS])
def test_all_that_is_wrong_with_a_call_is_told_at_once(
    cli: Cli, tiny_chain: Chain, line: str, problems: list[str]
) -> None:
    found = cli(*line.format(chain=tiny_chain.root).split())
    assert check_errors(found, 2, {}) == [problem.format(chain=tiny_chain.root) for problem in problems]


def test_an_artifact_is_not_written_over_its_parent(cli: Cli, tiny_chain: Chain) -> None:
    for line, parent, kind in (
        ("train-ae --base {0} --out {0} --dry-run", tiny_chain.mdlm, "a base"),
        ("train-prior --ae {0} --out {0} --dry-run", tiny_chain.ae, "an auto-encoder"),
        ("distill --prior {0} --out {0} --dry-run", tiny_chain.prior, "a prior"),
    ):
        (problem,) = check_errors(cli(*line.format(parent).split()), 1, {})
        assert problem.startswith(f"{parent} is {kind}, which this run would replace; ")


def test_a_file_name_that_is_no_text_is_shown_escaped(cli: Cli) -> None:
    name = os.fsdecode(b"\xff.txt")
    Path(name).write_text("the old dog sat by the sea")
    found = cli("encode", name, "--dry-run")
    assert (found.status, found.err) == (0, "")
    assert json.loads(found.out)["files"] == {name: 1}
    (problem,) = cli("encode", os.fsdecode(b"\xfe.txt")).errors
    assert problem.startswith("error: there is no file or folder ")


def test_folders_that_are_missing_are_told_together(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    found = cli("train-prior", "--ae", "nowhere", "--latents", tiny_chain.mdlm, "--data", "gone", "--out", "new")
    assert (found.status, found.out) == (1, "")
    starts = [
        "error: there is no folder nowhere; ",
        f"error: {tiny_chain.mdlm} is ",
        "error: there is no folder gone; ",
    ]
    assert [line.startswith(start) for line, start in zip(found.errors, starts, strict=True)] == [True] * 3
    assert list(tmp_path.iterdir()) == []
    found = cli("bench", "--model", "nowhere", "--against", "nowhere", "gone")
    assert [line.split(";")[0] for line in found.errors] == [
        "error: there is no folder nowhere",
        "error: there is no folder gone",
    ]
