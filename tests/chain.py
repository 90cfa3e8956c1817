"""A tiny chain of real artifacts: text -> data set -> mdlm -> ae -> prior -> student, each of a few training steps."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diladiff_cli.config import AeConfig, DistillConfig, EncodeConfig, MdlmConfig, PriorConfig

LENGTH = 16
LATENTS, CHANNELS = 8, 8
WORDS = (
    *("the", "a", "one", "old", "new", "red", "dog", "cat", "sun", "sea", "sat", "ran", "saw", "and", "over"),
    *("under", "by", "to", "with", "of", "home", "bird"),
)
TRAINING: dict[str, Any] = {
    "batch_size": 32,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "lr_schedule": "constant",
    "ema_decay": 0.5,
    "precision": "fp32",
    "eval_every": 0,
    "eval_batches": 1,
    "save_every": 0,
    "log_every": 1,
}


@dataclass(frozen=True)
class Chain:
    """Where the parts lie; tests must not change them, but copy ``root`` first."""

    root: Path

    @property
    def text(self) -> Path:
        """A text file."""
        return self.root / "text.txt"

    @property
    def held_out(self) -> str:
        """What reports call the reference text of the chain's models."""
        fingerprint = json.loads((self.data / "config.json").read_text())["fingerprint"]
        return f"the validation split of data set {fingerprint[:12]}"

    @property
    def data(self) -> Path:
        """The token data set, blocks of 16 tokens."""
        return self.root / "data"

    @property
    def mdlm(self) -> Path:
        """The base."""
        return self.root / "ckpt" / "mdlm"

    @property
    def ae(self) -> Path:
        """The auto-encoder, latents (8, 8)."""
        return self.root / "ckpt" / "ae"

    @property
    def prior(self) -> Path:
        """The prior."""
        return self.root / "ckpt" / "prior"

    @property
    def student(self) -> Path:
        """The student."""
        return self.root / "ckpt" / "student"


def write_text(path: Path, documents: int = 80, words: int = 30, seed: int = 0) -> None:
    """Documents of random words, separated by blank lines."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choice(WORDS) for _ in range(words)) for _ in range(documents)]
    path.write_text("\n\n".join(texts) + "\n")


def build_data(chain: Chain) -> None:
    """The text and its token data set."""
    from diladiff_cli.stages.encode import encode_text

    chain.root.mkdir(parents=True, exist_ok=True)
    write_text(chain.text)
    config = EncodeConfig(tokenizer="train:300", length=LENGTH, valid_share=0.25)
    encode_text(config, text=[str(chain.text)], out=chain.data)


def mdlm_config(**changes: Any) -> MdlmConfig:
    """A base of width 16."""
    return MdlmConfig(**TRAINING | {"width": 16, "layers": 2, "heads": 2, "max_steps": 5} | changes)


def ae_config(**changes: Any) -> AeConfig:
    """An auto-encoder with latents of 8 vectors of 8 channels."""
    network = {"compression": LENGTH // LATENTS, "latent_width": CHANNELS, "encoder_layers": 1}
    return AeConfig(**TRAINING | network | {"decoder_warmup_steps": 0, "max_steps": 5} | changes)


def prior_config(**changes: Any) -> PriorConfig:
    """A prior of width 16."""
    return PriorConfig(**TRAINING | {"width": 16, "layers": 2, "heads": 2, "max_steps": 5} | changes)


def distill_config(**changes: Any) -> DistillConfig:
    """A student of that prior."""
    return DistillConfig(**TRAINING | {"tangent_warmup_steps": 0, "max_steps": 3} | changes)


def build_chain(root: Path) -> Chain:
    """Train all of it, a few seconds."""
    from diladiff_cli.stages.distill import distill
    from diladiff_cli.stages.train_ae import train_ae
    from diladiff_cli.stages.train_mdlm import train_mdlm
    from diladiff_cli.stages.train_prior import train_prior

    chain = Chain(root)
    build_data(chain)
    # Fewer steps would leave latents that hardly differ from one another.
    gentle = {"sigma_feat": 0.1, "p_feat_mask": 0.1, "p_latent_mask": 0.0, "p_latent_drop": 0.0}
    informative = ae_config(max_steps=80, learning_rate=2e-2, optimizer="muon", **gentle)
    train_mdlm(mdlm_config(), data=chain.data, out=chain.mdlm)
    train_ae(informative, base=chain.mdlm, out=chain.ae)
    train_prior(prior_config(), ae=chain.ae, out=chain.prior)
    distill(distill_config(), prior=chain.prior, out=chain.student)
    return chain
