"""Short trainings that differ in one choice: augmentation, compression, channels, schedule and positions, features.

    python examples/ablations.py --chain demo --out ablations [--embedder FOLDER] [--only strong-2x ...]

Takes base, data and latents from a chain of examples/train_demo.sh, or from a folder laid out as it leaves one
(ckpt/mdlm, ckpt/ae, data, latents), trains a fresh auto-encoder and prior for each variant, and writes what they reach
to ablations.json. Cut off, the same command goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DILADIFF = [sys.executable, "-m", "diladiff_cli"]


@dataclass(frozen=True)
class Variant:
    """One choice, and the options that make it.

    Attributes:
        name: Of the variant and its folder.
        group: What is compared.
        ae: Options of train-ae; None to take the chain's auto-encoder and latents.
        prior: Options of train-prior.
        features: The auto-encoder reads an encoder that is given with --embedder.
        own_base: Auto-encoder on a base with that encoder's tokenizer.
    """

    name: str
    group: str
    ae: tuple[str, ...] | None = ()
    prior: tuple[str, ...] = ()
    features: bool = False
    own_base: bool = False


VARIANTS = (
    Variant("strong-2x", "augmentation", ("--augmentation", "strong")),
    Variant("mild-2x", "augmentation", ("--augmentation", "mild")),
    Variant("soft-2x", "augmentation", ("--augmentation", "soft")),
    Variant("dropout-50-2x", "augmentation", ("--augmentation", "dropout-50")),
    *(Variant(f"strong-{c}x", "compression", ("--compression", str(c))) for c in (1, 4, 8)),
    Variant("16-channels", "channels", ("--latent-width", "16")),
    *(Variant(f"d-{d}", "schedule", None, ("--schedule-d", str(d))) for d in (2, 5, 10, 15)),
    *(Variant(f"positions-{p}", "positions", None, ("--positions", p)) for p in ("learned", "rotary", "local")),
    Variant("features-self", "features", own_base=True),
    Variant("features-encoder", "features", features=True, own_base=True),
)


def run(*command: str) -> str:
    """Standard output of a diladiff command."""
    print("$ diladiff", " ".join(command), file=sys.stderr, flush=True)
    return subprocess.run([*DILADIFF, *command], check=True, stdout=subprocess.PIPE, text=True).stdout


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def data_of(variant: Variant, options: argparse.Namespace) -> Path:
    """The chain's data set, or that of this script with the tokenizer of the encoder."""
    return options.out / "data" if variant.own_base else Path(options.chain) / "data"


def base_of(variant: Variant, options: argparse.Namespace) -> Path:
    """The chain's base, or one of this script with the tokenizer of the encoder."""
    if not variant.own_base:
        return Path(options.chain) / "ckpt/mdlm"
    data, base = data_of(variant, options), options.out / "base"
    if not (data / "config.json").exists():
        run("encode", "--preset", "demo", "--tokenizer", options.embedder, "--out", str(data))
    steps = ["--max-steps", options.base_steps, *training_options(options)]
    run("train-mdlm", "--preset", "demo", "--data", str(data), *steps, "--out", str(base))
    return base


def training_options(options: argparse.Namespace) -> list[str]:
    """What all trainings share."""
    return ["--batch-size", options.batch_size, *(["--compile"] if options.compile else [])]


def measure(variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Train what the variant needs, and its figures."""
    folder, chain = options.out / variant.name, Path(options.chain)
    folder.mkdir(parents=True, exist_ok=True)
    data = ["--data", str(data_of(variant, options))]
    if variant.ae is None:
        ae, latents = chain / "ckpt/ae", ["--latents", str(chain / "latents")]
    else:
        ae, latents = folder / "ae", []
        features = ["--features", options.embedder] if variant.features else []
        base = ["--base", str(base_of(variant, options)), "--out", str(ae)]
        steps = ["--max-steps", options.ae_steps, *training_options(options)]
        run("train-ae", "--preset", "demo", *steps, *variant.ae, *features, *base, *data)
    prior = folder / "prior"
    steps = [
        "--max-steps",
        options.schedule_steps if variant.ae is None else options.prior_steps,
        *training_options(options),
    ]
    made_from = ["--ae", str(ae), *latents, *data]
    run("train-prior", "--preset", "demo", *steps, *variant.prior, *made_from, "--out", str(prior))
    sampling = ["--prior-steps", "5", "--decode-steps", options.decode_steps, "--seeds", options.seeds]
    sampling += ["--n", options.n, "--scorer", options.scorer, "--out", str(options.out / "bench")]
    points = run("bench", "--model", str(ae), "--against", str(prior), *sampling, *data)
    trained = {name: json.loads((path / "config.json").read_text()) for name, path in (("ae", ae), ("prior", prior))}
    return {
        "variant": variant.name,
        "group": variant.group,
        "network": {name: config["network"] for name, config in trained.items()},
        "steps": {name: config["progress"]["step"] for name, config in trained.items()},
        "validation": {name: config["progress"]["validation"] for name, config in trained.items()},
        "points": {report["stage"]: report for report in lines(points)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chain", default="demo", help="folder of examples/train_demo.sh")
    parser.add_argument("--out", type=Path, default=Path("ablations"))
    parser.add_argument("--embedder", help="BERT encoder for the group `features`: a Hugging Face id or folder")
    parser.add_argument("--only", nargs="*", choices=[v.name for v in VARIANTS], help="variants; all unless given")
    parser.add_argument("--ae-steps", default="300")
    parser.add_argument("--prior-steps", default="500", help="of priors on the variants' auto-encoders")
    parser.add_argument("--schedule-steps", default="1000", help="of priors on the chain's latents")
    parser.add_argument("--base-steps", default="500", help="of the base with the encoder's tokenizer")
    parser.add_argument("--batch-size", default="64", help="of all trainings")
    parser.add_argument("--compile", action="store_true", help="as of the training commands; pays on a GPU")
    parser.add_argument("--scorer", default="auto", help="as of diladiff bench")
    parser.add_argument("--n", default="256", help="texts of a seed")
    parser.add_argument("--seeds", default="0", help="of the texts; MAUVE is that of all seeds' texts together")
    parser.add_argument("--decode-steps", default="16", help="of all texts")
    options = parser.parse_args()
    if options.embedder and os.path.isdir(options.embedder):
        options.embedder = os.path.abspath(options.embedder)
    chosen = [v for v in VARIANTS if not options.only or v.name in options.only]
    if any(v.own_base for v in chosen) and not options.embedder:
        print("without --embedder the group `features` is left out", file=sys.stderr)
        chosen = [v for v in chosen if not v.own_base]
    found = options.out / "ablations.json"
    results = {r["variant"]: r for r in json.loads(found.read_text())} if found.exists() else {}
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("out", "only")}
    older = {name: str(parser.get_default(name)) for name in settings}  # of results older than an option
    if any(older | r["settings"] != settings for r in results.values()):
        sys.exit(f"{found} holds results with other settings; repeat those, or choose another --out")
    for variant in chosen:
        if variant.name not in results:
            results[variant.name] = measure(variant, options) | {"settings": settings}
            order = [v.name for v in VARIANTS if v.name in results]
            found.write_text(json.dumps([results[name] for name in order], indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
