"""Text, tokenizers, encoders and scorers from the Hub, which a server on this machine stands for."""

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ..chain import LENGTH, WORDS, Chain, write_text
from ..command_line import Outcome, environment
from ..local_hub import LocalHub, serving
from ..scorer import build_scorer
from ..stages.test_encoder_features import write_encoder
from ..stages.test_initial import published, tokenizer_of_words
from ..warmed import warm_python

CARD = """---
configs:
- config_name: short
  data_files: short.jsonl
- config_name: odd
  data_files: odd.jsonl
---
"""
ABSENT = "is not a file or folder here, and cannot be read from the Hub"
ENCODE = ("--length", "16", "--valid-share", "0.25")


@dataclass(frozen=True)
class Visitor:
    """Who calls commands in a folder, with an empty cache, and a hub to ask.

    Attributes:
        hub: What is asked.
        folder: Where commands are called.
    """

    hub: LocalHub
    folder: Path

    def __call__(self, *arguments: str | Path) -> Outcome:
        """A command as a process of its own."""
        variables = self.hub.environment(self.folder / "cache")
        done = subprocess.run(
            [warm_python(*variables.items()), "-m", "diladiff_cli", *map(str, arguments)],
            cwd=self.folder,
            env=environment() | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    with serving() as hub:
        yield Visitor(hub, tmp_path_factory.mktemp("visitor"))


def documents(count: int, seed: int) -> list[str]:
    """Texts of random words."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(30)) for _ in range(count)]


@pytest.fixture(scope="module")
def poems(visitor: Visitor) -> Path:
    """Data sets, one of two configurations and two revisions, and a tokenizer, on the hub and as local folders."""
    for revision, seed in (("main", 1), ("v2", 2)):
        folder = visitor.folder / "poems" / revision
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(CARD)
        rows = [json.dumps({"text": text}) for text in documents(40, seed)]
        (folder / "short.jsonl").write_text("\n".join(rows))
        (folder / "odd.jsonl").write_text("\n".join(rows[1::2]))
        visitor.hub.add("datasets", "lab/poems", folder, revision)
    pages = visitor.folder / "pages"
    pages.mkdir()
    for part in range(2):
        pyarrow.parquet.write_table(pyarrow.table({"body": documents(30, 10 + part)}), pages / f"{part}.parquet")
    visitor.hub.add("datasets", "lab/pages", pages)
    write_text(visitor.folder / "words.txt")
    assert visitor("encode", "words.txt", "--tokenizer", "train:300", *ENCODE, "--out", "trained").status == 0
    words = visitor.folder / "words"
    words.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (words / name).write_bytes((visitor.folder / "trained" / name).read_bytes())
    visitor.hub.add("models", "lab/words", words)
    return visitor.folder / "poems"


def shards(folder: Path) -> dict[str, bytes]:
    """The tokens of a data set."""
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize(
    ("source", "local", "field"),
    [
        ("lab/poems@v2:odd", "poems/v2/odd.jsonl", "text"),
        ("lab/pages", "pages", "body"),
    ],
)
def test_a_data_set_of_the_hub_gives_the_tokens_of_its_files(
    visitor: Visitor, poems: Path, source: str, local: str, field: str
) -> None:
    found = []
    for text, tokenizer in ((source, "lab/words"), (local, "words")):
        more = ("--text-field", field, "--tokenizer", tokenizer, *ENCODE, "--out", "data", "--fresh")
        assert (done := visitor("encode", text, *more)).status == 0, done.err
        found.append(shards(visitor.folder / "data"))
    assert found[0] == found[1] != {}
    assert visitor.hub.was_asked_for(source.partition("@")[0])


@pytest.mark.parametrize(
    ("text", "tokenizer", "told"),
    [
        ("lab/prose", "words", f"lab/prose {ABSENT}"),
        ("lab/poems@v9:short", "words", f"lab/poems@v9:short {ABSENT}"),
        ("lab/poems:middle", "words", f"lab/poems:middle {ABSENT}"),
        ("lab/poems:short", "lab/letters", "the tokenizer lab/letters cannot be loaded"),
    ],
)
def test_what_the_hub_does_not_have_is_told_in_a_line(
    visitor: Visitor, poems: Path, text: str, tokenizer: str, told: str
) -> None:
    done = visitor("encode", text, "--tokenizer", tokenizer, *ENCODE, "--out", "nowhere")
    assert done.status == 1
    assert told in done.error
    assert f"asking the Hub for {text}, which is not a file here" in done.err
    assert not (visitor.folder / "nowhere").exists()


def test_the_hub_is_not_asked_in_a_dry_run(visitor: Visitor, poems: Path) -> None:
    visitor.hub.asked.clear()
    done = visitor("encode", "lab/poems:short", "--tokenizer", "words", *ENCODE, "--out", "new", "--dry-run")
    assert (done.status, done.err) == (0, "")
    assert not visitor.hub.asked


def test_an_encoder_of_the_hub_gives_features_and_is_named_in_a_bundle(visitor: Visitor, tiny_chain: Chain) -> None:
    visitor.hub.add("models", "lab/encoder", write_encoder(visitor.folder / "encoder", tiny_chain))
    sizes = ("--latent-width", "8", "--encoder-layers", "1", "--compression", "2")
    training = ("--max-steps", "2", "--batch-size", "8", "--eval-batches", "1", "--warmup-steps", "0")
    data = ("--base", tiny_chain.mdlm, "--data", tiny_chain.data, "--features", "lab/encoder")
    assert (done := visitor("train-ae", *data, *sizes, *training, "--out", "ae")).status == 0, done.err
    assert (done := visitor("export", "--model", "ae", "--out", "bundle")).status == 0, done.err
    assert "lab/encoder" in (visitor.folder / "bundle" / "README.md").read_text()
    shutil.rmtree(visitor.folder / "cache")  # as on another machine
    visitor.hub.asked.clear()
    drawn = visitor("sample", "--model", "bundle", "--data", tiny_chain.data, "--n", "2", "--decode-steps", "2")
    assert drawn.status == 0, drawn.err
    assert len(drawn.out.splitlines()) == 2
    assert visitor.hub.was_asked_for("lab/encoder")


@pytest.mark.parametrize("asked_for", ["lab/scorer", "auto"])
def test_a_scorer_of_the_hub_is_downloaded_once(visitor: Visitor, asked_for: str) -> None:
    scorer, folder = build_scorer(), visitor.folder / "scorer"
    scorer.model.save_pretrained(folder)  # type: ignore[operator]
    scorer.tokenizer.save_pretrained(folder)
    name = "openai-community/gpt2-large" if asked_for == "auto" else asked_for
    visitor.hub.add("models", name, folder)
    lines = [json.dumps({"text": " ".join("abcdef"[(i + j) % 6] for j in range(LENGTH))}) for i in range(8)]
    (visitor.folder / "samples.jsonl").write_text("\n".join(lines))
    (visitor.folder / "reference.txt").write_text("\n\n".join("a b c d e f" for _ in range(8)))
    files = ("samples.jsonl", "--reference", "reference.txt", "--scorer", asked_for)
    visitor.hub.asked.clear()
    done = visitor("eval", *files)
    assert done.status == 0, done.err
    assert visitor.hub.was_asked_for(name)
    report = json.loads(done.out)
    assert report["scorer"]["name"] == name.removeprefix("openai-community/")
    assert report["samples"]["genppl"] > 0
    visitor.hub.asked.clear()
    again = visitor("eval", *files)
    assert again.out == done.out
    # Versions 4 of transformers ask each time for code that a model may have, and here does not.
    assert [path for path in visitor.hub.asked if not path.endswith("/custom_generate/generate.py")] == []


@pytest.mark.parametrize("kind", ["published", "own"])
def test_a_base_of_the_hub_is_begun_with(visitor: Visitor, tiny_chain: Chain, kind: str) -> None:
    checkpoint, tokenizer = visitor.folder / f"{kind} base", visitor.folder / f"tokenizer of {kind}"
    if kind == "own":
        shutil.copytree(tiny_chain.mdlm, checkpoint, ignore=shutil.ignore_patterns("state"))
        tokenizer = checkpoint
    else:
        tokenizer_of_words(tokenizer)
        published(checkpoint)
    visitor.hub.add("models", f"lab/{kind}", checkpoint)
    write_text(visitor.folder / "text.txt")
    made = visitor("encode", "text.txt", "--tokenizer", tokenizer, *ENCODE, "--out", f"data of {kind}")
    assert made.status == 0, made.err
    training = ("--max-steps", "1", "--batch-size", "4", "--data", f"data of {kind}", "--out", f"from {kind}")
    done = visitor("train-mdlm", "--init", f"lab/{kind}", *training)
    assert done.status == 0, done.err
    assert "asking the Hub for lab/" in done.err
    assert visitor.hub.was_asked_for(f"lab/{kind}")
    del visitor.hub.repositories["models", f"lab/{kind}", "main"]  # from here on the cache has to do
    again = visitor("train-mdlm", "--init", f"lab/{kind}", *training, "--resume", "--max-steps", "2")
    assert again.status == 0, again.err
    refused = visitor("train-mdlm", "--init", "lab/none", *training, "--fresh")
    assert refused.status == 1
    assert refused.error.startswith("error: lab/none is not in the local cache and cannot be reached on the Hub")
