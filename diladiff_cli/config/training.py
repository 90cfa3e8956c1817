"""The configuration of the training stages."""

from dataclasses import dataclass

from diladiff_cli.settings import ConfigError, Good, Settings, flag, option, precision_option, shown

POSITIONS = ("learned", "rotary", "local")  # the last: rotary, with attention that starts local


@dataclass(frozen=True, kw_only=True)
class StageConfig(Settings):
    """What every training stage has: the optimisation, its length and its bookkeeping."""

    seed: int = option(0, "Seed of all randomness: initialisation, data order, noise.", low=0)
    max_steps: int = option(1000, "Optimiser steps of the whole run.", low=1)
    max_minutes: float = option(0.0, "Minutes until it stops cleanly; the same command goes on (0: no limit).", low=0)
    batch_size: int = option(64, "Sequences per optimiser step, over all processes.", low=1)
    grad_accum: int = option(1, "Micro-batches that a process splits its share of a batch into.", low=1)
    learning_rate: float = option(3e-4, "Peak learning rate.", low=0, high=1000)
    warmup_steps: int = option(1000, "Steps of linear learning-rate warm-up.", low=0)
    lr_schedule: str = option("cosine", "Decay after the warm-up.", choices=("cosine", "linear", "constant"))
    min_lr_ratio: float = option(0.0, "Final learning rate as a share of the peak.", low=0, high=1)
    optimizer: str = option(
        "adamw", "muon: Muon for the matrices of the blocks, AdamW for the rest.", choices=("adamw", "muon")
    )
    weight_decay: float = option(0.0, "Decoupled weight decay of matrices.", low=0, high=1000)
    beta1: float = option(0.9, "AdamW's first decay rate, below 1.", low=0, high=0.999999)
    beta2: float = option(0.98, "AdamW's second decay rate, below 1.", low=0, high=0.999999)
    grad_clip: float = option(1.0, "Largest norm of the gradient (0: no clipping).", low=0)
    ema_decay: float = option(0.9999, "Decay of the averaged weights, which are the ones saved.", low=0, high=1)
    precision: str = precision_option("auto")
    compile: bool = option(False, "Compile what every step runs with torch.compile, in about a minute.")
    shard: bool = option(False, "Share weights, averages and the optimiser's state out between steps (FSDP).")
    deterministic: bool = option(False, "On a GPU: only algorithms that give the same bits again; slower.")
    eval_every: int = option(1000, "Steps between validations (0: only at the end).", low=0)
    eval_batches: int = option(16, "Batches of validation data in a validation.", low=1)
    save_every: int = option(1000, "Steps between checkpoints (0: only at the end).", low=0)
    log_every: int = option(10, "Steps between lines of metrics.jsonl.", low=1)
    log_with: str = option("none", "Also log to a tracker.", choices=("none", "tensorboard", "wandb"))

    def notes(self) -> list[str]:
        """Lines for the user on what is allowed and seldom meant."""
        values = {name: value for name, value in self.to_dict().items() if name.endswith("warmup_steps")}
        return [
            f"{flag(name)} {value} is not less than --max-steps {self.max_steps}: the warm-up will not be over; "
            "give a smaller one, unless this is a trial"
            for name, value in values.items()
            if value >= self.max_steps
        ]

    def _problems(self, good: Good) -> list[str]:
        if good("batch_size", "grad_accum") and self.batch_size % self.grad_accum:
            return [f"--batch-size {self.batch_size} is not a multiple of --grad-accum {self.grad_accum}; change one"]
        return []


def _check_heads(config: "MdlmConfig | PriorConfig", good: Good) -> list[str]:
    if good("width", "heads") and config.width % (2 * config.heads):
        return [f"--width {config.width} is not a multiple of twice --heads {config.heads}; change one"]
    return []


# Fields of MdlmConfig that are arguments of a base's network.
BASE_NETWORK: tuple[str, ...] = ("width", "layers", "heads", "mlp_width", "activation", "norm", "bias", "qk_norm")
BASE_NETWORK += ("positions", "tie_embeddings")


@dataclass(frozen=True, kw_only=True)
class MdlmConfig(StageConfig):
    """Stage 0: the masked diffusion base (method section 2)."""

    width: int = option(768, "Width of the residual stream.", low=2, high=1 << 16)
    layers: int = option(12, "Transformer blocks.", low=1, high=1024)
    heads: int = option(12, "Attention heads.", low=1, high=1024)
    mlp_width: int = option(0, "Hidden width of the feed-forward (0: four times --width).", low=0, high=1 << 20)
    activation: str = option("gelu_tanh", "Feed-forward nonlinearity.", choices=("gelu", "gelu_tanh", "swiglu"))
    norm: str = option("rmsnorm", "Normalisation layer.", choices=("rmsnorm", "layernorm"))
    bias: bool = option(False, "Biases in norms, feed-forward and head, as the public MDLM checkpoints have.")
    qk_norm: bool = option(True, "Normalise queries and keys.")
    positions: str = option(
        "learned", "Position encoding; local is rotary, with attention that starts local.", choices=POSITIONS
    )
    tie_embeddings: bool = option(False, "Use the embedding table as the vocabulary head.")
    elbo_weight: str = option(
        "constant",
        "Weight of a masked token's cross-entropy: constant, or the ELBO's 1/t.",
        choices=("constant", "exact"),
    )

    def _problems(self, good: Good) -> list[str]:
        problems = super()._problems(good) + _check_heads(self, good)
        if good("positions", "qk_norm") and self.positions == "local" and not self.qk_norm:
            problems.append("--positions local needs --qk-norm; leave it on, or take --positions rotary")
        return problems


AUGMENTATIONS: dict[str, dict[str, float]] = {
    "strong": {"sigma_feat": 0.5, "p_feat_mask": 0.7, "p_latent_mask": 0.7, "p_latent_drop": 0.75},
    "mild": {"sigma_feat": 0.4, "p_feat_mask": 0.5, "p_latent_mask": 0.5, "p_latent_drop": 0.75},
    "soft": {"sigma_feat": 0.3, "p_feat_mask": 0.3, "p_latent_mask": 0.4, "p_latent_drop": 0.75},
    "dropout-50": {"sigma_feat": 0.5, "p_feat_mask": 0.7, "p_latent_mask": 0.7, "p_latent_drop": 0.5},
}


def _layer_index(part: str, names: dict[str, int]) -> int | None:
    """The number of a layer that is given by name or number; None where it is neither."""
    part = part.strip()
    return int(part) if part.isdecimal() and len(part) < 10 else names.get(part)


@dataclass(frozen=True, kw_only=True)
class AeConfig(StageConfig):
    """Stage 1: the auto-encoder (method section 3)."""

    learning_rate: float = option(5e-5, "Peak learning rate.", low=0, high=1000)
    decoder_lr_ratio: float = option(
        1.0, "The pre-trained decoder weights' learning rate relative to the rest.", low=0, high=1000
    )
    warmup_steps: int = option(1000, "Warm-up of the encoder and the new cross-attention layers.", low=0)
    decoder_warmup_steps: int = option(10_000, "Warm-up of the pre-trained decoder weights.", low=0)
    weight_decay: float = option(1e-5, "Decoupled weight decay of matrices.", low=0, high=1000)
    grad_clip: float = option(10.0, "Largest norm of the gradient (0: no clipping).", low=0)
    features: str = option("self", "Feature source: self (the frozen base), or a Hugging Face encoder's id or folder.")
    compression: int = option(2, "Tokens per latent vector.", low=1, high=32)
    latent_width: int = option(768, "Channels of a latent vector.", low=1, high=1 << 16)
    encoder_layers: int = option(2, "Perceiver layers of the encoder.", low=1, high=1024)
    encoder_width: int = option(0, "Width of the encoder (0: that of the base).", low=0, high=1 << 16)
    cross_layers: str = option(
        "first,last", "Decoder layers with cross-attention: first, last, or numbers from 0.", listed=True
    )
    local_attention: bool = option(True, "Rotary positions and a local start in the cross-attentions.")
    augmentation: str = option("strong", "Preset of the augmentation strengths.", choices=tuple(AUGMENTATIONS))
    sigma_feat: float = option(-1.0, "Noise on the features (-1: from --augmentation).", low=-1, high=1)
    p_feat_mask: float = option(-1.0, "Masking of the features (-1: from --augmentation).", low=-1, high=1)
    p_latent_mask: float = option(-1.0, "Masking of the latents (-1: from --augmentation).", low=-1, high=1)
    p_latent_drop: float = option(-1.0, "Replacing of the latents by noise (-1: from --augmentation).", low=-1, high=1)
    mask_unit: str = option("position", "What is masked in features and latents.", choices=("position", "element"))
    stats_momentum: float = option(0.01, "Update rate of the latents' running statistics.", low=1e-6, high=1)

    def _problems(self, good: Good) -> list[str]:
        given = {name: getattr(self, name) for name in AUGMENTATIONS["strong"] if good(name)}
        problems = super()._problems(good) + [
            f"{flag(name)} is {value}; give 0 to 1, or -1 for the value of --augmentation"
            for name, value in given.items()
            if -1 < value < 0
        ]
        parts = self.cross_layers.split(",") if good("cross_layers") else []
        wrong = [part for part in parts if _layer_index(part, {"first": 0, "last": 0}) is None]
        return problems + [f"--cross-layers has {shown(part)}; use first, last or numbers from 0" for part in wrong]

    def augmentation_strengths(self) -> dict[str, float]:
        """The four strengths: those of the preset, overridden where an option was given."""
        preset = AUGMENTATIONS[self.augmentation]
        return {k: v if getattr(self, k) < 0 else getattr(self, k) for k, v in preset.items()}

    def cross_layer_indices(self, layers: int) -> tuple[int, ...]:
        """The decoder layers, sorted, that get cross-attention in a base of ``layers`` blocks.

        Raises:
            ConfigError: A name or number that is not a layer of the base.
        """
        names = {"first": 0, "last": layers - 1}
        indices = set()
        for part in self.cross_layers.split(","):
            index = _layer_index(part, names)
            if index is None or index >= layers:
                raise ConfigError([f"--cross-layers has {part!r}; use first, last or 0 to {layers - 1}"])
            indices.add(index)
        return tuple(sorted(indices))


@dataclass(frozen=True, kw_only=True)
class PriorConfig(StageConfig):
    """Stage 2: the latent prior (method section 4)."""

    learning_rate: float = option(2e-4, "Peak learning rate.", low=0, high=1000)
    width: int = option(768, "Width of the residual stream.", low=2, high=1 << 16)
    layers: int = option(12, "Transformer blocks.", low=1, high=1024)
    heads: int = option(12, "Attention heads.", low=1, high=1024)
    positions: str = option(
        "local", "Position encoding; local is rotary, with attention that starts local.", choices=POSITIONS
    )
    schedule_d: float = option(10.0, "d of the tan-d noise schedule.", low=1e-3, high=1e4)
    p_self_cond: float = option(0.5, "Share of examples trained with self-conditioning.", low=0, high=1)

    def _problems(self, good: Good) -> list[str]:
        return super()._problems(good) + _check_heads(self, good)


@dataclass(frozen=True, kw_only=True)
class DistillConfig(StageConfig):
    """Stage 3: MeanFlow distillation (method section 5)."""

    max_steps: int = option(25_000, "Optimiser steps of the whole run.", low=1)
    learning_rate: float = option(5e-5, "Peak learning rate.", low=0, high=1000)
    p_self_cond: float = option(0.5, "Share of examples trained with self-conditioning.", low=0, high=1)
    p_equal: float = option(0.25, "Share of examples with r = t, plain flow matching to the teacher.", low=0, high=1)
    time_mean: float = option(-1.0, "Mean of the logit-normal law of t and r.", low=-10, high=10)
    time_std: float = option(1.0, "Standard deviation of the logit-normal law of t and r.", low=0, high=10)
    p_uniform: float = option(
        0.5, "Of those outside jumps, the share whose t and r are uniform (0: the published law).", low=0, high=1
    )
    p_zero: float = option(0.15, "Of those outside jumps, the share with r = 0 (0: the published law).", low=0, high=1)
    p_jumps: float = option(
        0.7, "Share of examples with t and r in a jump of the sampler in one to five steps (0: none).", low=0, high=1
    )
    tangent_warmup_steps: int = option(10_000, "Steps over which the jvp term's factor rises from 0 to 1.", low=0)
    adaptive_constant: float = option(5.0, "Constant added to an example's loss in its own weight.", low=1e-6, high=1e6)
    velocity: str = option(
        "ode",
        "Velocity of the teacher's estimate: of its ODE at z_t, or, as listed in the paper, with the sampled noise.",
        choices=("ode", "sampled"),
    )
    guidance: float = option(
        0.0, "How far the teacher's estimates are pushed away from those without self-conditioning.", low=0, high=100
    )
