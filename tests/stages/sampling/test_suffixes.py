"""``--suffix``: what every text ends with; together with ``--prompt`` the middle is filled in."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import SampleConfig
from diladiff_cli.model import load
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.evaluation.samples import evaluate_samples, report_table
from diladiff_cli.stages.evaluation.scoring import Scoring
from diladiff_cli.stages.evaluation.sets import decodings_by_latent, group_samples, read_samples
from diladiff_cli.stages.sampling import graphs
from diladiff_cli.stages.sampling.prompts import given_tokens, masked_between
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import notes_on, origin_of
from diladiff_cli.stages.sampling.trace import record

from ...chain import LENGTH, Chain
from .test_prompts import shown_on_terminal

PROMPT, SUFFIX = "the old dog", " saw the sea"
STAGES = ("mdlm", "prior", "student")


@pytest.fixture(scope="module")
def samplers(tiny_chain: Chain) -> dict[str, Sampler]:
    return {stage: load_sampler(getattr(tiny_chain, stage), "cpu") for stage in (*STAGES, "ae")}


def draw(sampler: Sampler, **settings: Any) -> list[dict[str, Any]]:
    steps = {"steps": 3} if sampler.stage == "prior" else {}
    return list(generate(sampler, SampleConfig(**{"n": 6, "suffix": SUFFIX} | steps | settings)))


@pytest.mark.parametrize("prompt", ["", PROMPT])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("order", ["random", "spread", "confidence", "threshold", "entropy"])
def test_every_text_ends_with_the_suffix_and_has_its_own_middle(
    samplers: dict[str, Sampler], stage: str, order: str, prompt: str
) -> None:
    sampler = samplers[stage]
    found = draw(sampler, order=order, temperature=2.0, prompt=prompt)
    first, last = given_tokens(sampler, prompt), given_tokens(sampler, SUFFIX)
    assert last
    assert len(first) + len(last) < LENGTH
    for sample in found:
        ids = sample["token_ids"]
        assert (ids[: len(first)], ids[LENGTH - len(last) :]) == (first, last)
        assert sample["text"].startswith(prompt)
        assert sample["text"].endswith(SUFFIX)
        assert sampler.decoder.mask_id not in ids
    assert len({tuple(sample["token_ids"]) for sample in found}) > 1
    told = {(sample["suffix"], sample["suffix_tokens"], sample["prompt"]) for sample in found}
    assert told == {(SUFFIX, len(last), prompt or None)}


def test_a_middle_of_one_token_is_drawn_as_the_network_says_given_both_sides(samplers: dict[str, Sampler]) -> None:
    sampler, room = samplers["mdlm"], LENGTH - 1 - len(given_tokens(samplers["mdlm"], SUFFIX))
    prompts = ("ab" + " the" * n for n in range(LENGTH))
    prompt = next(text for text in prompts if len(given_tokens(sampler, text)) == room)
    x = masked_between(sampler, prompt, SUFFIX, 1)
    assert (x == sampler.decoder.mask_id).nonzero().tolist() == [[0, room]]
    likeliest = sampler.decoder(x)[0, room].argmax()
    assert {s["token_ids"][room] for s in draw(sampler, prompt=prompt, temperature=0.0)} == {int(likeliest)}


@pytest.mark.parametrize("stage", STAGES)
def test_texts_with_a_suffix_depend_neither_on_the_batch_size_nor_on_replays(
    samplers: dict[str, Sampler], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = draw(samplers[stage], prompt=PROMPT)
    assert draw(samplers[stage], prompt=PROMPT, batch_size=2) == wanted
    monkeypatch.setattr(graphs, "replays_pay", lambda device: True)
    assert draw(samplers[stage], prompt=PROMPT) == wanted


def test_given_latents_are_decoded_before_a_suffix(tiny_chain: Chain) -> None:
    model = load(tiny_chain.ae, "cpu")
    z_0 = model.encode(["the cat ran home", "one bird saw the sea"])
    assert all(found["text"].endswith(SUFFIX) for found in model.decode(z_0, decode_steps=4, suffix=SUFFIX))
    with pytest.raises(ConfigError, match=r"suffix has \d+ tokens, and the texts of .* have 16; give a shorter one"):
        model.decode(z_0, suffix=SUFFIX * LENGTH)


@pytest.mark.parametrize(
    ("stage", "settings", "problems"),
    [
        ("mdlm", {"suffix": SUFFIX * LENGTH}, [r"suffix has \d+ tokens, .* have 16; give a shorter one"]),
        (
            "student",
            {"suffix": " the" * (LENGTH // 2), "prompt": "the" + " the" * (LENGTH // 2)},
            [r"prompt and --suffix have \d+ tokens together, and the texts of .* have 16; give less"],
        ),
        (
            "ae",
            {"suffix": SUFFIX, "prompt": PROMPT},
            ["prompt is 'the old dog', but .* of stage ae", "suffix is ' saw the sea', but .* of stage ae"],
        ),
    ],
)
def test_suffixes_that_make_no_sense_are_refused(
    samplers: dict[str, Sampler], stage: str, settings: dict[str, str], problems: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        draw(samplers[stage], **settings)
    assert len(caught.value.problems) == len(problems)
    for found, wanted in zip(caught.value.problems, problems, strict=True):
        assert re.search(wanted, found)


def test_a_suffix_that_goes_on_with_a_word_is_told(samplers: dict[str, Sampler]) -> None:
    notes = [notes_on(samplers["mdlm"], SampleConfig(suffix=suffix)) for suffix in ("", " sea", ".", "\nsea", "sea")]
    assert [len(each) for each in notes] == [0, 0, 0, 0, 1]
    assert "--suffix begins without a space" in notes[4][0]


def test_what_is_given_counts_in_no_agreement(samplers: dict[str, Sampler]) -> None:
    found = draw(samplers["student"], decodings=2, temperature=2.0, prompt=PROMPT)
    first, last = (len(given_tokens(samplers["student"], text)) for text in (PROMPT, SUFFIX))
    wanted = [[s["token_ids"][first : LENGTH - last] for s in found[i : i + 2]] for i in range(0, len(found), 2)]
    decodings = decodings_by_latent(found)
    assert decodings is not None
    assert decodings.tolist() == wanted
    for count in (LENGTH, LENGTH + 4):
        assert decodings_by_latent([sample | {"suffix_tokens": count} for sample in found]) is None


def test_texts_of_several_suffixes_are_several_ways_of_sampling(samplers: dict[str, Sampler]) -> None:
    drawn = [draw(samplers["student"], suffix=suffix) for suffix in ("", SUFFIX, " home")]
    assert group_samples(sample for each in drawn for sample in each) == drawn
    assert len({origin_of(samplers["student"], SampleConfig(suffix=s)) for s in ("", SUFFIX, " home")}) == 3


def test_tables_say_what_prompt_and_suffix_count_in(samplers: dict[str, Sampler]) -> None:
    for prompt, wanted in (("", "the suffix counts in all"), (PROMPT, "the prompt and the suffix count in all")):
        report = evaluate_samples(draw(samplers["mdlm"], prompt=prompt), None, Scoring(None))
        text = shown_on_terminal(report_table(report))
        assert f"{wanted} figures but latent agreement" in text
        assert "suffix ' saw the sea'" in text


def test_a_suffix_of_other_programs_is_no_way_of_sampling(tmp_path: Path) -> None:
    lines = [{"text": "one", "suffix": "a"}, {"text": "two", "suffix": "b"}]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(group_samples(read_samples(str(tmp_path / "s.jsonl")))) == 1


def test_the_trace_has_the_suffix_from_the_start(samplers: dict[str, Sampler]) -> None:
    sampler, config = samplers["student"], SampleConfig(n=2, steps=2, decode_steps=4, suffix=SUFFIX)
    found, count = record(sampler, config), len(given_tokens(sampler, SUFFIX))
    assert found.sample == next(generate(sampler, config))
    assert found.revealed[-count:] == [0] * count
    assert set(found.revealed[:-count]) <= {1, 2, 3, 4}
