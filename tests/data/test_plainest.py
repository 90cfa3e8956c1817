"""``examples/plainest.py`` chooses the documents that it says it does."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

TALES = [
    "The cat and the dog and the cat.",  # all common
    "The king, the DOG, the cat; and a zeppelin!",  # six of eight
    "Zymurgy quixotically obfuscates the phlogiston.",  # one of five
    "1, 2, 3",  # without words
    "The dog and the cat and the king and a king",  # all common
]


@pytest.fixture
def plainest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    return importlib.import_module("plainest")


@pytest.fixture
def tales(tmp_path: Path) -> str:
    path = tmp_path / "tales.jsonl"
    path.write_text("".join(json.dumps({"text": tale}) + "\n" for tale in TALES))
    return str(path)


def chosen(plainest: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[set[str], str]:
    assert plainest.main(list(arguments)) == 0
    captured = capsys.readouterr()
    return {json.loads(line)["text"] for line in captured.out.splitlines()}, captured.err


# By count: the 7, and 5, cat 4, dog 3, king 3, a 2, once each the rest.
@pytest.mark.parametrize(
    ("common", "least", "wanted"),
    [
        ("6", "1", [0, 4]),
        ("6", "0.75", [0, 1, 4]),
        ("6", "0.2", [0, 1, 2, 4]),
        ("2", "0.57", [0]),
        ("1", "0", range(5)),
    ],
)
def test_documents_with_enough_common_words_are_chosen(
    plainest: ModuleType,
    tales: str,
    capsys: pytest.CaptureFixture[str],
    common: str,
    least: str,
    wanted: list[int],
) -> None:
    found, told = chosen(plainest, capsys, tales, "--common", common, "--least", least)
    assert found == {TALES[i] for i in wanted}
    assert told == f"{len(wanted)} of 5 documents\n"


def test_the_order_is_random_and_the_same_at_every_run(
    plainest: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tales = [f"the dog {i}" for i in range(50)]
    (tmp_path / "tales.jsonl").write_text("".join(json.dumps({"text": tale}) + "\n" for tale in tales))
    found = []
    for _ in range(2):
        assert plainest.main([str(tmp_path / "tales.jsonl")]) == 0
        found.append([json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()])
    assert found[0] == found[1] != tales
    assert sorted(found[0]) == sorted(tales)


@pytest.mark.parametrize("bad", [["--least", "86"], ["--least", "-1"], ["--least", "nan"], ["--common", "0"]])
def test_values_that_choose_nothing_are_refused(
    plainest: ModuleType, tales: str, capsys: pytest.CaptureFixture[str], bad: list[str]
) -> None:
    with pytest.raises(SystemExit):
        plainest.main([tales, *bad])
    assert "--least must be a share from 0 to 1, and --common at least 1" in capsys.readouterr().err


def test_the_words_may_be_those_of_another_collection(
    plainest: ModuleType, tales: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "brewing.txt").write_text("Zymurgy quixotically obfuscates phlogiston.")
    found, _ = chosen(plainest, capsys, tales, "--words-of", str(tmp_path / "brewing.txt"), "--least", "0.8")
    assert found == {TALES[2]}


def test_a_long_document_stays_one(plainest: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = " ".join(["the dog"] * 200_000)  # more than a piece of text that is read at once
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": long}))
    assert chosen(plainest, capsys, str(tmp_path / "long.jsonl"))[0] == {long}


def test_what_is_not_there_is_told(plainest: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert plainest.main(["nowhere.jsonl"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
