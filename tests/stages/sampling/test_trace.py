import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.config import SampleConfig
from diladiff_cli.data.tokenizer import decode_text, encode_documents, load_tokenizer, separator_id
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.evaluation.sets import SETTINGS
from diladiff_cli.stages.sampling.sample import decode, draw_latents, generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import complete
from diladiff_cli.stages.sampling.trace import Estimate, Trace, page, record, token_pieces

from ...chain import LENGTH, Chain

STAGES = ("mdlm", "ae", "prior", "student")
HOSTILE = "</script><script>alert(1)</script><!-- & __TRACE__ \u2028 \x00 \ud800"


@pytest.fixture(scope="module")
def samplers(tiny_chain: Chain) -> dict[str, Sampler]:
    return {stage: load_sampler(getattr(tiny_chain, stage), "cpu") for stage in STAGES}


def settings(stage: str, **more: Any) -> SampleConfig:
    return SampleConfig(**{"n": 4, "seed": 3, "decode_steps": 6} | ({"steps": 6} if stage == "prior" else {}) | more)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("order", ["random", "spread", "confidence", "threshold", "entropy"])
def test_the_steps_are_those_of_the_decoding(samplers: dict[str, Sampler], stage: str, order: str) -> None:
    sampler, config = samplers[stage], settings(stage, order=order, threshold=0.2, entropy_bound=4.0)
    found = record(sampler, config)
    tokens, revealed = torch.tensor(found.sample["token_ids"]), torch.tensor(found.revealed)
    seen: list[Tensor] = []
    config = complete(sampler, config)
    z_0 = None if stage == "mdlm" else draw_latents(sampler, range(1), config)
    decode(sampler, range(1), config, z_0, lambda _, x: seen.append(x[0].clone()))
    assert len(seen) == config.decode_steps
    for step, x in enumerate(seen, 1):
        assert torch.equal(x, torch.where(revealed <= step, tokens, sampler.decoder.mask_id))
    assert len(set(found.revealed)) > 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "more",
    [{}, {"decodings": 2}, {"decodings": 4, "batch_size": 3}, {"precision": "bf16"}, {"n": 9, "precision": "bf16"}],
    ids=str,
)
def test_the_sample_is_the_first_of_the_same_command(
    samplers: dict[str, Sampler], stage: str, more: dict[str, Any]
) -> None:
    if stage == "mdlm":
        more = {name: value for name, value in more.items() if name != "decodings"}
    config = settings(stage, **more)
    found = record(samplers[stage], config)
    assert found.sample == next(generate(samplers[stage], config))
    assert "".join(found.pieces) == found.sample["text"]
    assert len(found.pieces) == len(found.revealed) == LENGTH


def test_in_bf16_sample_0_is_drawn_in_the_batch_that_it_comes_in(
    samplers: dict[str, Sampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, rows = samplers["student"], []
    monkeypatch.setattr(sampler.latent, "forward", lambda z, *_: rows.append(len(z)) or torch.zeros_like(z))
    for precision in ("fp32", "bf16"):
        for n, decodings, batch_size in ((20, 1, 8), (6, 1, 8), (20, 2, 8), (20, 10, 8)):
            config = SampleConfig(n=n, steps=1, precision=precision, decodings=decodings, batch_size=batch_size)
            record(sampler, config)
    assert rows == [1, 1, 1, 1, 8, 6, 4, 1]


def test_the_last_estimate_of_a_student_is_the_final_text(samplers: dict[str, Sampler]) -> None:
    found = record(samplers["student"], settings("student", steps=3))
    assert [estimate.step for estimate in found.estimates] == [1, 2, 3]
    assert found.estimates[-1].token_ids == found.sample["token_ids"]
    assert found.estimates[-1].pieces == found.pieces
    assert found.estimates[0].token_ids != found.sample["token_ids"]


@pytest.mark.parametrize("stage", ["prior", "student"])
def test_an_estimate_is_decoded_as_the_sample_is(samplers: dict[str, Sampler], stage: str) -> None:
    sampler, config = samplers[stage], complete(samplers[stage], settings(stage, steps=4))
    estimates: list[Tensor] = []
    draw_latents(sampler, range(1), config, lambda _, z: estimates.append(z))
    wanted = [decode(sampler, range(1), config, z)[0].tolist() for z in estimates]
    found = record(sampler, config).estimates
    assert [estimate.token_ids for estimate in found] == wanted
    assert ["".join(e.pieces) for e in found] == [decode_text(sampler.tokenizer, row) for row in wanted]


def test_estimates_are_decoded_in_smaller_parts_where_memory_is_short(
    samplers: dict[str, Sampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("prior", steps=4, decode_steps=2)
    wanted = record(samplers["prior"], config).estimates
    sizes: list[int] = []

    def short(sampler: Sampler, ids: Sequence[int], *rest: Any) -> Tensor:
        sizes.append(len(ids))
        if len(ids) > 1:
            raise MemoryError
        return decode(sampler, ids, *rest)

    monkeypatch.setattr("diladiff_cli.stages.sampling.trace.decode", short)
    assert record(samplers["prior"], config).estimates == wanted
    assert max(sizes) > 1


def test_every_latent_step_is_shown(samplers: dict[str, Sampler]) -> None:
    for steps in (1, 21, 50):
        config = settings("prior", steps=steps, decode_steps=1)
        assert [e.step for e in record(samplers["prior"], config).estimates] == list(range(1, steps + 1))


@pytest.mark.parametrize("stage", ["mdlm", "ae"])
def test_without_latent_steps_there_are_no_estimates(samplers: dict[str, Sampler], stage: str) -> None:
    assert record(samplers[stage], settings(stage)).estimates == []


def test_what_cannot_be_drawn_cannot_be_traced(samplers: dict[str, Sampler]) -> None:
    with pytest.raises(ConfigError, match="draws no latents"):
        record(samplers["mdlm"], settings("mdlm", steps=2))


def test_a_character_of_several_tokens_goes_to_the_last_of_them(samplers: dict[str, Sampler]) -> None:
    tokenizer = samplers["mdlm"].tokenizer
    text = "the é — 日🙂"
    (ids,) = encode_documents(tokenizer, [text])
    pieces = token_pieces(tokenizer, ids)
    assert "".join(pieces) == text + "\n\n"
    assert pieces[-6:] == ["日", "", "", "", "🙂", "\n\n"]
    assert pieces.count("") == 1 + 2 + 2 + 3  # the first bytes of each character


def test_pieces_join_to_the_text_whatever_the_tokens(samplers: dict[str, Sampler]) -> None:
    tokenizer = samplers["mdlm"].tokenizer
    draws = torch.randint(0, len(tokenizer), (30, 40), generator=torch.Generator().manual_seed(0))
    draws[:, 7] = draws[:, 8] = separator_id(tokenizer)
    for row in draws.tolist():
        pieces = token_pieces(tokenizer, row)
        assert (len(pieces), "".join(pieces)) == (40, decode_text(tokenizer, row))
    assert token_pieces(tokenizer, []) == []


def test_pieces_of_words_that_are_joined_by_blanks(tmp_path: Path) -> None:
    """A WordPiece decoder puts the blanks between tokens and takes them away before a comma."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "[CLS]", "the", "bird", "##s", ",", "sang"]
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece(cleanup=True)
    special = {"mask_token": "[MASK]", "sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = [words.index(word) for word in ("[CLS]", "the", "bird", "##s", ",", "sang", "[SEP]", "the")]
    assert token_pieces(tokenizer, ids) == ["", "the", " bird", "s", ",", " sang", "\n\n", "the"]


def example(text: str) -> Trace:
    sample = {"id": 0, "text": text, "token_ids": [5, 6], "decode_steps": 2, "steps": 1, "model": text}
    return Trace(sample, [text, ""], [1, 2], [Estimate(1, [5, 6], [text, ""])])


class Elements(HTMLParser):
    """Names of the elements in a page, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.scripts: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, data: str) -> None:
        if self.names and self.names[-1] == "script":
            self.scripts[-1] += data


def test_no_text_can_break_out_of_the_page() -> None:
    harmless, hostile = Elements(page(example("harmless"))), Elements(page(example(HOSTILE)))
    assert hostile.names == harmless.names
    assert json.loads(hostile.scripts[0]) == asdict(example(HOSTILE))
    assert hostile.scripts[1].strip() == harmless.scripts[1].strip()


def test_a_page_loads_nothing() -> None:
    text = page(example("a text"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', text)
    assert policy.split("; ")[0] == "default-src 'none'"
    assert set(re.findall(r"\S+-(?:src|uri|action) ([^;]*)", policy)) == {"'none'", "'unsafe-inline'"}
    assert not {"src", "href", "srcset", "action", "style"} & Elements(text).attributes
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|innerHTML", text)


def test_the_page_has_a_word_for_every_setting(tiny_chain: Chain) -> None:
    sampler = load_sampler(tiny_chain.prior, "cpu")
    html = page(record(sampler, SampleConfig(n=1, steps=1, decode_steps=1)))
    (labels,) = re.findall(r"const LABELS = \{(.*?)\};", html, re.DOTALL)
    assert {*SETTINGS} - {"precision"} <= {*re.findall(r"(\w+): \"", labels)}
