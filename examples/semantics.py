"""What a latent means: similarity of decoded texts under noise, between decodings, and along an interpolation.

    python examples/semantics.py --model ckpt/ae --data data --embedder sentence-transformers/all-MiniLM-L6-v2

Prints one JSON object. Similarities are cosines of an embedding model's mean-pooled last hidden states; agreement is
the share of equal tokens at equal positions; both are averaged over texts that lie evenly over the held-out ones, with
their standard errors.
"""

import argparse
import json
import math
import sys
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

import diladiff_cli

SIGMAS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Embedder:
    """Texts -> unit vectors."""

    def __init__(self, name: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModel.from_pretrained(name).eval()

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """(B, D) of texts."""
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden = self.model(**inputs).last_hidden_state
        weight = inputs["attention_mask"][..., None].to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


def texts_of(samples: list[dict[str, Any]]) -> list[str]:
    return [sample["text"] for sample in samples]


def tokens_of(samples: list[dict[str, Any]]) -> Tensor:
    return torch.tensor([sample["token_ids"] for sample in samples])


def with_error(name: str, values: Tensor) -> dict[str, float]:
    """The mean of a figure over latents, and its standard error."""
    return {name: float(values.mean()), f"{name}_stderr": float(values.std() / math.sqrt(len(values)))}


def interpolate(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between two latents along an arc, which keeps the variance of standardised ones."""
    angle = 0.5 * math.pi * share
    return math.cos(angle) * a + math.sin(angle) * b


def noise_sweep(model: diladiff_cli.Model, z: Tensor, originals: list[str], embed: Embedder) -> list[dict[str, float]]:
    """Decodings of sqrt(1 - sigma^2) z + sigma eps, beside the texts that the latents are of."""
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    wanted, clean, found = embed(originals), tokens_of(model.decode(z, seed=0)), []
    for sigma in SIGMAS:
        samples = model.decode(math.sqrt(1 - sigma**2) * z + sigma * eps, seed=1)
        similarity = (embed(texts_of(samples)) * wanted).sum(-1)
        agreement = (tokens_of(samples) == clean).float().mean(-1)
        found.append({"sigma": sigma} | with_error("similarity", similarity) | with_error("agreement", agreement))
    return found


def within_and_between(model: diladiff_cli.Model, z: Tensor, embed: Embedder, decodings: int = 4) -> dict[str, float]:
    """Mean similarity of texts decoded from one latent, and of texts decoded from different ones."""
    vectors = embed(texts_of(model.decode(z, decodings=decodings))).unflatten(0, (len(z), decodings))
    pairs = list(combinations(range(decodings), 2))
    within = torch.stack([(vectors[:, i] * vectors[:, j]).sum(-1) for i, j in pairs]).mean(0)
    between = torch.stack([(vectors[:, i] * vectors[:, j].roll(1, 0)).sum(-1) for i, j in pairs]).mean(0)
    return with_error("within", within) | with_error("between", between)


def interpolation(model: diladiff_cli.Model, z: Tensor, originals: list[str], embed: Embedder) -> dict[str, Any]:
    """Similarity to both ends along the way from each latent to the next, and the first pair's texts."""
    ends, found = embed(originals), []
    for share in SHARES:
        samples = model.decode(interpolate(z, z.roll(-1, 0), share), seed=2)
        vectors = embed(texts_of(samples))
        found.append(
            {"share": share, "text": samples[0]["text"]}
            | with_error("similarity_to_first", (vectors * ends).sum(-1))
            | with_error("similarity_to_second", (vectors * ends.roll(-1, 0)).sum(-1))
        )
    return {"first": originals[0], "second": originals[1], "steps": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="artifact of stage ae, prior or student")
    parser.add_argument("--data", help="token data set whose held-out texts are encoded (default: the recorded one)")
    parser.add_argument("--embedder", required=True, help="sentence encoder: a Hugging Face id or folder")
    parser.add_argument("--n", type=int, default=64, help="texts")
    options = parser.parse_args()
    model = diladiff_cli.load(options.model, data=options.data)
    held_out = model.sampler.held_out
    if options.n > len(held_out):
        sys.exit(f"there are {len(held_out)} held-out texts; choose a smaller --n than {options.n}")
    rows = held_out.gather([i * len(held_out) // options.n for i in range(options.n)])
    originals = model.tokenizer.batch_decode(rows.tolist(), skip_special_tokens=True)
    z = model.sampler.encoder(rows.to(model.sampler.device)).cpu()
    embed = Embedder(options.embedder)
    result = {
        "model": options.model,
        "n": options.n,
        "embedder": options.embedder,
        "decode_steps": model.length // 4,
        "noise": noise_sweep(model, z, originals, embed),
        "decodings": within_and_between(model, z, embed),
        "interpolation": interpolation(model, z, originals, embed),
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
