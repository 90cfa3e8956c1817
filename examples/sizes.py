"""Short trainings of a base that differ in one choice each: tokenizer, length of blocks, width, layers, positions.

    python examples/sizes.py --out sizes [--steps 300] [--only tokens-1024 ...]

All train on the same text, with as many tokens in a step as the preset ``demo``, and are compared by their
bound on the same held-out text, in bits per character, which does not depend on the tokenizer. What they reach is
written to sizes.json. Cut off, the same command goes on where it was.
"""

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diladiff_cli.data.tokenizer import decode_text, load_tokenizer
from diladiff_cli.data.tokens import open_tokens

DILADIFF = [sys.executable, "-m", "diladiff_cli"]
STEP_TOKENS = 64 * 64  # of the preset


@dataclass(frozen=True)
class Variant:
    """A base that differs in one choice, or none, from that of the preset ``demo``.

    Attributes:
        name: Of the variant and its folder.
        tokens: Vocabulary of the tokenizer.
        length: L of the blocks.
        width: Of the network, a multiple of 64, the width of a head.
        layers: Of the network.
        positions: Their encoding.
    """

    name: str
    tokens: int = 4096
    length: int = 64
    width: int = 256
    layers: int = 4
    positions: str = "local"


VARIANTS = (
    Variant("local"),
    *(Variant(f"tokens-{tokens}", tokens=tokens) for tokens in (1024, 2048, 8192)),
    *(Variant(f"length-{length}", length=length) for length in (32, 128, 256)),
    *(Variant(f"width-{width}", width=width) for width in (192, 384)),
    *(Variant(f"layers-{layers}", layers=layers) for layers in (2, 6)),
    *(Variant(positions, positions=positions) for positions in ("rotary", "learned")),
)


def run(*command: str) -> str:
    """Standard output of a diladiff command."""
    print("$ diladiff", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run([*DILADIFF, *command], check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(variant: Variant, out: Path, steps: str, text: list[str]) -> dict[str, Any]:
    """Train the variant, and its figures."""
    data, base = out / f"data-{variant.tokens}-{variant.length}", out / variant.name
    tokenizer = f"train:{variant.tokens}"
    if not (data / "config.json").exists():
        run("encode", *text, "--tokenizer", tokenizer, "--length", str(variant.length), "--out", str(data))
    options = ["--width", str(variant.width), "--heads", str(variant.width // 64), "--positions", variant.positions]
    options += [
        "--layers",
        str(variant.layers),
        "--batch-size",
        str(STEP_TOKENS // variant.length),
        "--max-steps",
        steps,
    ]
    run("train-mdlm", "--preset", "demo", *options, "--data", str(data), "--out", str(base))
    tokens = open_tokens(data)
    held_out = tokens.split("valid")
    batches = str(max(1, len(held_out) // 16))
    report = json.loads(run("eval", str(base), "--batches", batches, "--draws", "2", "--precision", "auto"))
    bound = report["figures"]["masked_text"]["base"]
    blocks = held_out.gather(range(len(held_out)))
    characters = len(decode_text(load_tokenizer(data), blocks.flatten().tolist()))
    nats_per_character = bound["nats_per_token"] * blocks.numel() / characters
    return {
        "variant": variant.name,
        "tokens": variant.tokens,
        "length": variant.length,
        "width": variant.width,
        "layers": variant.layers,
        "positions": variant.positions,
        "parameters": json.loads(run("info", str(base)))["parameters"]["total"],
        "steps": int(steps),
        "text": text,
        "epochs": int(steps) * STEP_TOKENS / (len(tokens.split("train")) * variant.length),
        "characters_per_token": characters / blocks.numel(),
        "nats_per_token": bound["nats_per_token"],
        "bits_per_character": nats_per_character / math.log(2),
        "stderr": bound["stderr"] / bound["nats_per_token"] * nats_per_character / math.log(2),
        "seconds": json.loads((base / "config.json").read_text())["progress"]["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sizes"))
    parser.add_argument("--only", nargs="*", choices=[v.name for v in VARIANTS], help="variants; all unless given")
    parser.add_argument("--steps", default="300", help="of all trainings")
    parser.add_argument("--text", nargs="*", default=[], help="text sources; that which ships unless given")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = options.out / "sizes.json"
    results = {r["variant"]: r for r in json.loads(found.read_text())} if found.exists() else {}
    if any((str(r["steps"]), r["text"]) != (options.steps, options.text) for r in results.values()):
        sys.exit(f"{found} holds results of other steps or text; repeat those, or choose another --out")
    for variant in VARIANTS:
        if variant.name not in results and variant.name in (options.only or [v.name for v in VARIANTS]):
            results[variant.name] = measure(variant, options.out, options.steps, options.text)
            order = [v.name for v in VARIANTS if v.name in results]
            found.write_text(json.dumps([results[name] for name in order], indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
