"""The configuration of every stage: one frozen dataclass each, validated, with presets.

Resolution order, weakest first: field default, preset, ``--config`` file, single options.
"""

from diladiff_cli.config.resolve import SECTIONS, read_config_file, resolve
from diladiff_cli.config.training import (
    AUGMENTATIONS,
    BASE_NETWORK,
    AeConfig,
    DistillConfig,
    MdlmConfig,
    PriorConfig,
    StageConfig,
)
from diladiff_cli.config.use import (
    ENDS,
    FOR_SPEED,
    MAX_LATENT_SCALE,
    MIN_LATENT_SCALE,
    SMALLEST_VOCABULARY,
    BenchConfig,
    EncodeConfig,
    EvalConfig,
    SampleConfig,
    choice_in_use,
    unusual,
)

__all__ = [
    "AUGMENTATIONS",
    "BASE_NETWORK",
    "ENDS",
    "FOR_SPEED",
    "MAX_LATENT_SCALE",
    "MIN_LATENT_SCALE",
    "SECTIONS",
    "SMALLEST_VOCABULARY",
    "AeConfig",
    "BenchConfig",
    "DistillConfig",
    "EncodeConfig",
    "EvalConfig",
    "MdlmConfig",
    "PriorConfig",
    "SampleConfig",
    "StageConfig",
    "choice_in_use",
    "read_config_file",
    "resolve",
    "unusual",
]
