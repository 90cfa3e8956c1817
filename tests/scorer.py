"""A scorer small enough for tests."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from diladiff_cli.metrics.scorers import Scorer

WORDS = ["<end>", "?", "a", "b", "c", "d", "e", "f"]


def build_scorer() -> Scorer:
    """A random GPT-2 of two layers over a vocabulary of eight words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    core.pre_tokenizer = WhitespaceSplit()
    build: Any = PreTrainedTokenizerFast  # untyped upstream
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
        )
        config.bos_token_id = config.eos_token_id = 0
        model: torch.nn.Module = GPT2LMHeadModel(config)
    tokenizer = build(tokenizer_object=core, eos_token="<end>", unk_token="?")
    return Scorer("tiny", tokenizer, model.eval(), context=32)


def give_scorer(monkeypatch: pytest.MonkeyPatch, name: str = "tiny") -> Scorer:
    """Make it the one that every ``--scorer`` gives; by their letters, it tells all texts apart."""
    from diladiff_cli.stages.evaluation import measure as sample_measure

    def by_letter(_: Scorer, texts: Any, *_more: Any) -> list[list[int]]:
        return [[2 + ord(letter) % 6 for letter in text[:16]] for text in texts]

    scorer = replace(build_scorer(), name=name)
    monkeypatch.setattr(Scorer, "encode", by_letter)
    monkeypatch.setattr(sample_measure, "load_scorer", lambda *_: (scorer, name))
    return scorer
