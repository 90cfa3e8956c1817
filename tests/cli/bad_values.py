"""Bad values for every option: what follows from the configuration's fields, and tables for the rest."""

from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

from diladiff_cli.cli.main import COMMANDS
from diladiff_cli.settings import LARGEST

from ..command_line import Outcome

LIST = ("x", "1,", "1,,2", "nan", "inf", "1e99", "-1", "1;2")
WHOLE_LIST = (*LIST, "0.5")
# Fields that take any text, with what they refuse; the other fields' bad values follow from type, range and choices.
FREE_TEXT: dict[str, tuple[str, ...]] = {
    "data.tokenizer": (
        "",
        " ",
        "train:",
        "train:257",
        "train:many",
        "train:-300",
        "train:99999999",
        "train:" + 99 * "9",
    ),
    "data.text_field": ("", "\t"),
    "eval.text_field": ("", "\t"),
    "ae.features": ("", "  "),
    "ae.cross_layers": ("", "middle", "first;last", "-1", "1.5", "first,", "9" * 99),
    "eval.scorer": ("",),
    "sample.prompt": ("\udcff",),
    "sample.suffix": ("\udcff",),
    "bench.scorer": ("",),
    "bench.decode_steps": (*WHOLE_LIST, "0"),
    "bench.steps": (*WHOLE_LIST, "", "0"),
    "bench.prior_steps": (*WHOLE_LIST, ""),
    "bench.temperatures": (*LIST, "", "1e-9", "1e7"),
    "bench.latent_scale": (*LIST, "", "10.1"),
    "bench.corrector": (*LIST, "", "1"),
    "bench.seeds": (*WHOLE_LIST, ""),
    "bench.vocab_sizes": (*WHOLE_LIST, "", "1"),
    "bench.lengths": (*WHOLE_LIST, "", "1"),
    "bench.batch_sizes": (*WHOLE_LIST, "", "0"),
}
HUGE = "9" * 400
NO_INTEGER = ("x", "", "1.5", "1e3", "nan", "0x10", "true", "9" * 5000, HUGE)
NO_FLOAT = ("x", "", "1,5", "nan", "-nan", "inf", "-inf", "1e999", "0x1p3", HUGE)

# Own options of the commands -> bad values, each with the exit status and what the one line says of it. An empty text
# is refused wherever a file or folder is meant. FILE is an empty file, and below it nothing can lie.
FILE = "file"
Cases = list[tuple[str, int, str]]
EMPTY: Cases = [("", 2, "{option} is empty; name a file or folder, or leave it out")]
INPUT: Cases = [
    *EMPTY,
    ("nowhere", 1, "nowhere"),
    (FILE, 1, FILE),
    (f"{FILE}/below", 1, f"{FILE}/below"),
    ("x" * 300, 1, "xxx"),
]
CHOICE: Cases = [(value, 2, f"{{option}} is {value!r}; choose one of ") for value in ("", "fp16", "BF16", "bf16 ")]
METADATA: Cases = [(value, 2, f"{{option}} is {value!r}; give ") for value in ("", " ", "a b", "en: [", "-x")]
SWITCH: Cases = [("=yes", 2, "option '{option}' does not take a value; see diladiff ")]
CONFIG: Cases = [
    *EMPTY,
    ("nowhere.toml", 2, "--config nowhere.toml cannot be read ("),
    (FILE + "/below", 2, f"--config {FILE}/below cannot be read ("),
    ("bytes.toml", 2, "--config bytes.toml cannot be read ("),
    ("deep.json", 2, "--config deep.json cannot be read ("),
]
PRESETS: Cases = [
    (value, 2, f"--preset is {value!r}; choose one of demo, small, owt") for value in ("", "huge", "Demo")
]
TEXT: Cases = [
    ("", 2, "TEXT is empty; name a file or folder, or leave it out"),
    ("nowhere.txt", 1, "there is no file or folder nowhere.txt; check the path"),
    ("no/such/folder", 1, "there is no file or folder no/such/folder; check the path"),
    ("*.nothing", 1, "no file matches *.nothing; check the pattern, and quote it"),
    (FILE, 1, f"{FILE} is of an unknown kind; give files that end in .txt"),
    ("folder", 1, "the folder folder holds no text; put files there that end in .txt"),
    ("empty.txt", 1, "there is no text in empty.txt: empty or blank; give files that hold some"),
    ("~nobody-of-that-name/a.txt", 1, "~nobody-of-that-name/a.txt cannot be read ("),
    ("x" * 300 + ".txt", 1, "cannot be read (File name too long); check the path"),
]
BATCH: Cases = [
    ("x", 2, "--batch-size is 'x'; give a whole number"),
    ("0", 2, "--batch-size is 0; give at least 1"),
    ("-9" + HUGE, 2, "; give at least 1"),
    (HUGE, 2, f"; give at most {LARGEST[int]}"),
]
PLACES: Cases = [*EMPTY, (FILE, 1, FILE), (f"{FILE}/below", 1, f"{FILE}/below")]
OWN: dict[str, dict[str, Cases]] = {
    "encode": {
        "text": TEXT,
        "valid": [(value, status, line.replace("TEXT", "--valid")) for value, status, line in TEXT],
        "out": PLACES,
        "ae": INPUT,
        "data": INPUT,
        "batch_size": BATCH,
        "precision": CHOICE,
        "resume": SWITCH,
        "dry_run": SWITCH,
    },
    "train-mdlm": {"data": INPUT, "init": INPUT, "out": PLACES, "resume": SWITCH, "dry_run": SWITCH},
    "train-ae": {"base": INPUT, "data": INPUT, "out": PLACES, "resume": SWITCH, "dry_run": SWITCH},
    "train-prior": {
        "ae": INPUT,
        "latents": INPUT,
        "data": INPUT,
        "out": PLACES,
        "resume": SWITCH,
        "dry_run": SWITCH,
    },
    "distill": {
        "prior": INPUT,
        "latents": INPUT,
        "data": INPUT,
        "out": PLACES,
        "resume": SWITCH,
        "dry_run": SWITCH,
    },
    "sample": {
        "model": INPUT,
        "data": INPUT,
        "out": [*EMPTY, ("folder", 1, "cannot write folder ("), (f"{FILE}/below", 1, f"cannot write {FILE}/below (")],
        "format": [(value, 2, f"--format is {value!r}; choose one of jsonl, text") for value in ("", "xml", "TEXT")],
        "trace": [*EMPTY, ("folder", 1, "cannot write folder ("), (f"{FILE}/below", 1, f"cannot write {FILE}/below (")],
        "dry_run": SWITCH,
    },
    "eval": {
        "target": [
            ("", 2, "TARGET is empty; name a file or folder, or leave it out"),
            ("nowhere.jsonl", 1, "cannot read nowhere.jsonl (No such file or directory); give"),
            (f"{FILE}/below", 1, f"cannot read {FILE}/below (Not a directory); give"),
            ("empty.txt", 1, "empty.txt holds no samples; write some with"),
            ("folder", 1, "folder is not a folder of diladiff (it has no config.json); give a model, which "),
            ("bytes.toml", 1, "bytes.toml, line 1 is not JSON; every line must be"),
            ("x" * 300, 1, "(File name too long)"),
        ],
        "reference": [(v, s, line.replace("TEXT", "--reference")) for v, s, line in TEXT if v != "empty.txt"],
        "data": INPUT,
        "pretty": SWITCH,
        "dry_run": SWITCH,
    },
    "bench": {
        "model": INPUT,
        "against": INPUT,
        "more": [("", 2, "MODEL is empty"), *INPUT[1:]],
        "out": PLACES,
        "data": INPUT,
        "speed": SWITCH,
        "dry_run": SWITCH,
    },
    "plot": {
        "target": [
            ("", 2, "TARGET is empty; name a file or folder, or leave it out"),
            ("nowhere.jsonl", 1, "nowhere.jsonl"),
            (f"{FILE}/below", 1, f"{FILE}/below"),
            ("empty.txt", 1, "empty.txt"),
            ("folder", 1, "folder is not a folder of diladiff (it has no config.json); give a model, which "),
            ("bytes.toml", 1, "bytes.toml"),
            ("x" * 300, 1, "(File name too long)"),
        ],
        "out": PLACES,
        "format": [
            (value, 2, f"--format is {value!r}; give one or several of png, svg, pdf, with commas")
            for value in ("", "gif", "png,", "png;svg", "PNG")
        ],
    },
    "info": {"path": [("", 2, "PATH is empty"), *INPUT[1:], ("folder", 1, "folder was not written by diladiff")]},
    "export": {
        "model": INPUT,
        "out": PLACES,
        "precision": CHOICE,
        "license": METADATA,
        "language": METADATA,
        "latent_scale": [
            ("", 2, "--latent-scale is ''; give a number"),
            ("x", 2, "--latent-scale is 'x'; give a number"),
            ("nan", 2, "--latent-scale is nan; give a finite number"),
            ("0", 2, "--latent-scale is 0.0; give at least 0.01"),
            ("11", 2, "--latent-scale is 11.0; give at most 10.0"),
            ("0.5", 2, "ckpt/mdlm is of stage mdlm and draws no latents; leave it out"),
        ],
    },
}
SHARED = {"preset": PRESETS, "config_file": CONFIG}
for _command in COMMANDS:
    if _command.stage is not None:
        OWN[_command.name] |= {name: kinds for name, kinds in SHARED.items() if name in _command.own()}
# What a command needs besides, so that the bad value is its only fault; {chain} is a finished pipeline. A name with a
# dot is for one option alone.
NEEDED: dict[str, str] = {
    "encode": "--tokenizer={chain}/data --length=16",
    "encode.valid": "{chain}/text.txt --tokenizer={chain}/data --length=16",
    "encode.out": "{chain}/text.txt --tokenizer={chain}/data --length=16",
    "encode.data": "--ae={chain}/ckpt/ae",
    "encode.batch_size": "--ae={chain}/ckpt/ae",
    "encode.precision": "--ae={chain}/ckpt/ae",
    "encode.ae": "",
    "train-mdlm": "--data={chain}/data --dry-run",
    "train-ae": "--base={chain}/ckpt/mdlm --compression=2 --dry-run",
    "train-prior": "--ae={chain}/ckpt/ae --dry-run",
    "distill": "--prior={chain}/ckpt/prior --dry-run",
    "sample": "--model={chain}/ckpt/mdlm --n=1",
    "sample.data": "--model={chain}/ckpt/ae --n=1",
    "eval": "samples.jsonl --scorer=none",
    "eval.target": "--scorer=none",
    "eval.data": "{chain}/ckpt/mdlm --batches=1 --draws=1",
    "bench": "--model={chain}/ckpt/mdlm --scorer=none --n=2 --seeds=0 --decode-steps=1",
    "bench.data": "--model={chain}/ckpt/ae --scorer=none --n=2 --seeds=0 --decode-steps=1",
    "plot": "{chain}/ckpt/mdlm --format=png",
    "plot.target": "",
    "info": "{chain}/ckpt/mdlm",
    "info.path": "",
    "export": "--model={chain}/ckpt/mdlm",
}


def bad_texts(stage: str, field: "Field[Any]", kind: type) -> tuple[str, ...]:
    """What the option of a field must refuse: wrong types, numbers out of range, unknown choices, empty texts.

    Raises:
        KeyError: A field of free text that has no row in ``FREE_TEXT``.
    """
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        return ("", "no-such-choice", choices[0].upper(), f"{choices[0]} ", ",".join(choices))
    if kind is bool:
        return ()
    if kind is str:
        return FREE_TEXT[f"{stage}.{field.name}"]
    assert low is not None, f"{field.name} has no lower limit"
    above = LARGEST[kind] if high is None else high
    if kind is int:
        return (*NO_INTEGER, str(low - 1), str(int(above) + 1), f"-{HUGE}")
    return (*NO_FLOAT, repr(low - 1e-3), repr(low - 1e30), repr(above + max(1e-3, above * 1e-9)), "1e300")


def own_cases() -> Iterator[tuple[str, str, str, int, str]]:
    """Command, option, value, exit status and what the line says."""
    for command, options in OWN.items():
        for name, cases in options.items():
            yield from ((command, name, *case) for case in cases)


def files() -> dict[str, bytes | None]:
    """What lies in the working folder: nothing may come, go or change there."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(Path().rglob("*"))}


def check_errors(found: Outcome, status: int, before: dict[str, bytes | None]) -> list[str]:
    """What was wrong, after a check that all was told in order: a line each with a remedy, and nothing else done."""
    assert (found.status, found.out) == (status, "")
    assert all(line.startswith("error: ") and "; " in line and len(line) < 1200 for line in found.errors), found.err
    assert files() == before
    return [line.removeprefix("error: ") for line in found.errors]
