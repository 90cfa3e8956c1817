"""``--prompt`` and ``--suffix``: what every text begins and ends with."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diladiff_cli.config import SampleConfig
from diladiff_cli.model import load
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.evaluation.files import overview_table
from diladiff_cli.stages.evaluation.samples import evaluate_samples, report_table
from diladiff_cli.stages.evaluation.scoring import Scoring
from diladiff_cli.stages.evaluation.sets import SETTINGS, decodings_by_latent, group_samples, read_samples
from diladiff_cli.stages.sampling import graphs, prompts
from diladiff_cli.stages.sampling.prompts import given_tokens, masked_between
from diladiff_cli.stages.sampling.sample import decode, draw_latents, generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import complete, in_use, notes_on, origin_of
from diladiff_cli.stages.sampling.trace import record

from ...chain import LENGTH, Chain

STAGES = ("mdlm", "prior", "student")
PROMPT = "the old dog sat"


@pytest.fixture(scope="module")
def samplers(tiny_chain: Chain) -> dict[str, Sampler]:
    return {stage: load_sampler(getattr(tiny_chain, stage), "cpu") for stage in (*STAGES, "ae")}


def draw(sampler: Sampler, **settings: Any) -> list[dict[str, Any]]:
    steps = {"steps": 3} if sampler.stage == "prior" else {}
    return list(generate(sampler, SampleConfig(**{"n": 6, "prompt": PROMPT} | steps | settings)))


def of_tokens(sampler: Sampler, count: int) -> str:
    """A prompt of so many tokens."""
    return next(text for n in range(count + 1) if len(given_tokens(sampler, text := "ab" + " the" * n)) == count)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("order", ["random", "spread", "confidence", "threshold", "entropy"])
def test_every_text_begins_with_the_prompt_and_goes_on_in_its_own_way(
    samplers: dict[str, Sampler], stage: str, order: str
) -> None:
    sampler, found = samplers[stage], draw(samplers[stage], order=order, temperature=2.0)
    tokens = given_tokens(sampler, PROMPT)
    assert 0 < len(tokens) < LENGTH
    assert all(sample["token_ids"][: len(tokens)] == tokens for sample in found)
    assert all(sample["text"].startswith(PROMPT) for sample in found)
    assert len({tuple(sample["token_ids"]) for sample in found}) > 1
    assert {sample["prompt"] for sample in found} == {PROMPT}


@pytest.mark.parametrize("stage", STAGES)
def test_texts_with_a_prompt_do_not_depend_on_the_batch_size(samplers: dict[str, Sampler], stage: str) -> None:
    assert draw(samplers[stage], batch_size=2) == draw(samplers[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_replays_keep_the_prompt(samplers: dict[str, Sampler], stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = draw(samplers[stage])
    monkeypatch.setattr(graphs, "replays_pay", lambda device: True)
    assert draw(samplers[stage]) == wanted
    assert samplers[stage].replays._kept


def test_one_token_is_drawn_as_the_network_says_given_all_others(samplers: dict[str, Sampler]) -> None:
    sampler, prompt = samplers["mdlm"], of_tokens(samplers["mdlm"], LENGTH - 1)
    likeliest = sampler.decoder(masked_between(sampler, prompt, "", 1))[0, -1].argmax()
    assert {s["token_ids"][-1] for s in draw(sampler, prompt=prompt, temperature=0.0)} == {int(likeliest)}


def test_behind_the_prompt_all_is_masked(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["mdlm"]
    x, tokens = masked_between(sampler, PROMPT, "", 3), given_tokens(sampler, PROMPT)
    assert x.tolist() == [[*tokens, *[sampler.decoder.mask_id] * (LENGTH - len(tokens))]] * 3
    assert (masked_between(sampler, "", "", 2) == sampler.decoder.mask_id).all()


def test_texts_without_a_prompt_say_so(samplers: dict[str, Sampler]) -> None:
    assert {sample["prompt"] for sample in draw(samplers["student"], prompt="")} == {None}


def test_latents_are_drawn_without_the_prompt(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["student"]
    with_prompt, without = (complete(sampler, SampleConfig(prompt=prompt)) for prompt in (PROMPT, ""))
    z_0 = draw_latents(sampler, range(2), with_prompt)
    assert torch.equal(z_0, draw_latents(sampler, range(2), without))
    given = decode(sampler, range(2), with_prompt, z_0).tolist()
    assert given == [sample["token_ids"] for sample in draw(sampler, n=2)]


def test_given_latents_are_decoded_behind_a_prompt(tiny_chain: Chain) -> None:
    model = load(tiny_chain.ae, "cpu")
    z_0 = model.encode(["the cat ran home", "one bird saw the sea"])
    found = model.decode(z_0, decode_steps=4, prompt=PROMPT)
    assert all(sample["text"].startswith(PROMPT) for sample in found)
    assert {sample["prompt"] for sample in found} == {PROMPT}
    with pytest.raises(ConfigError, match=r"steps is 3, but the latents are given(.|\n)*prompt has"):
        model.decode(z_0, prompt=PROMPT * LENGTH, steps=3)


@pytest.mark.parametrize(
    ("stage", "prompt", "problem"),
    [
        ("mdlm", PROMPT * LENGTH, r"prompt has \d+ tokens, and the texts of .* have 16; give a shorter one"),
        ("student", PROMPT * LENGTH, "give a shorter one"),
        ("ae", PROMPT, "prompt is 'the old dog sat', but .* is of stage ae"),
        ("ae", PROMPT * LENGTH, "leave it out$"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(
    samplers: dict[str, Sampler], stage: str, prompt: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        draw(samplers[stage], prompt=prompt)


def test_a_prompt_may_leave_a_single_token_and_no_less(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["mdlm"]
    assert prompts.given_problems(sampler, of_tokens(sampler, LENGTH - 1)) == []
    assert len(prompts.given_problems(sampler, of_tokens(sampler, LENGTH))) == 1


@pytest.mark.parametrize("knows_unknown", [True, False])
@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (" \t", "has no tokens; give some words"),
        ("the zebra", "has no token for part of it"),
        ("a [MASK]", "has no token for part of it"),
        ("a the", None),
    ],
)
def test_a_prompt_is_refused_that_the_tokenizer_does_not_know(
    samplers: dict[str, Sampler], prompt: str, problem: str | None, knows_unknown: bool
) -> None:
    words = {"[SEP]": 0, "[MASK]": samplers["mdlm"].decoder.mask_id, "a": 2, "the": 3}
    words |= {"[UNK]": 4} if knows_unknown else {}
    core = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "[UNK]"} if knows_unknown else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, sep_token="[SEP]", **special)
    found = prompts.given_problems(replace(samplers["mdlm"], tokenizer=tokenizer), prompt)
    assert [problem in line for line in found] == [True] if problem else found == []


def test_special_tokens_that_a_prompt_spells_are_text(samplers: dict[str, Sampler]) -> None:
    sampler, prompt = samplers["mdlm"], "<|mask|>"
    assert sampler.decoder.mask_id not in given_tokens(sampler, prompt)
    tokens = given_tokens(sampler, prompt)
    assert masked_between(sampler, prompt, "", 1)[0, : len(tokens)].tolist() == tokens


def test_white_space_at_the_end_of_a_prompt_is_told(samplers: dict[str, Sampler]) -> None:
    notes = [notes_on(samplers["mdlm"], SampleConfig(prompt=prompt)) for prompt in ("the dog", " the", "the ", "the\n")]
    assert [len(each) for each in notes] == [0, 0, 1, 1]
    assert "white space" in notes[2][0]


def test_texts_of_several_prompts_are_several_ways_of_sampling(samplers: dict[str, Sampler]) -> None:
    drawn = [draw(samplers["student"], prompt=prompt, decodings=2) for prompt in ("", PROMPT, "the")]
    assert group_samples(sample for each in drawn for sample in each) == drawn
    told = in_use(samplers["student"], complete(samplers["student"], SampleConfig(prompt=PROMPT))).keys()
    assert told - set(SETTINGS) == {"prompt_tokens", "suffix_tokens"}


def test_the_tokens_of_a_prompt_count_in_no_agreement(samplers: dict[str, Sampler]) -> None:
    found = draw(samplers["student"], decodings=2, temperature=2.0)
    count = found[0]["prompt_tokens"]
    assert count == len(given_tokens(samplers["student"], PROMPT))
    wanted = [[sample["token_ids"][count:] for sample in found[i : i + 2]] for i in range(0, len(found), 2)]
    decodings = decodings_by_latent(found)
    assert decodings is not None
    assert decodings.tolist() == wanted


def test_tables_show_prompts_as_they_are_but_cut_and_say_what_they_count_in(samplers: dict[str, Sampler]) -> None:
    drawn = draw(samplers["mdlm"])
    prompts = ("long " * 50, "see [/b] and [red] x")
    samples = [sample | {"prompt": prompt} for prompt in prompts for sample in drawn]
    reports = [evaluate_samples(group, None, Scoring(None)) for group in group_samples(samples)]
    overview = overview_table(reports)
    assert overview is not None
    for table in (report_table(reports[0]), overview):
        text = shown_on_terminal(table)
        assert "'long long" in text
        assert "long " * 20 not in text
    assert "'see [/b] and [red] x'" in shown_on_terminal(overview)
    assert "the prompt counts in all figures but latent agreement" in shown_on_terminal(report_table(reports[1]))


def shown_on_terminal(table: Any) -> str:
    console = Console(width=400, record=True, file=StringIO())
    console.print(table)
    return " ".join(console.export_text().split())


@pytest.mark.parametrize("prompt", ["hi", "", ["hi"], {"role": "user"}, None])
def test_prompts_of_other_programs_are_no_way_of_sampling(tmp_path: Path, prompt: Any) -> None:
    lines = [{"text": "one", "prompt": prompt}, {"text": "two", "prompt": "another"}]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(group_samples(read_samples(str(tmp_path / "s.jsonl")))) == 1


def test_texts_that_are_all_prompt_agree_in_nothing(samplers: dict[str, Sampler]) -> None:
    damaged = [sample | {"prompt_tokens": LENGTH} for sample in draw(samplers["student"], decodings=2)]
    assert decodings_by_latent(damaged) is None


def test_another_prompt_is_another_origin(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["student"]
    assert len({origin_of(sampler, SampleConfig(prompt=prompt)) for prompt in ("", PROMPT, "the")}) == 3


@pytest.mark.parametrize("stage", STAGES)
def test_the_trace_has_the_prompt_from_the_start(samplers: dict[str, Sampler], stage: str) -> None:
    sampler = samplers[stage]
    config = SampleConfig(n=2, steps=0 if stage == "mdlm" else 3, decode_steps=4, prompt=PROMPT)
    found, count = record(sampler, config), len(given_tokens(sampler, PROMPT))
    assert found.sample == next(generate(sampler, config))
    assert found.revealed[:count] == [0] * count
    assert set(found.revealed[count:]) <= {1, 2, 3, 4}
    assert all(estimate.token_ids[:count] == found.sample["token_ids"][:count] for estimate in found.estimates)
