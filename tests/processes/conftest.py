import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import StageConfig

from ..chain import Chain, ae_config, distill_config, mdlm_config, prior_config

Commands = dict[str, list[str | Path]]
STEPS = 5
SHARED: dict[str, Any] = {"batch_size": 16, "max_steps": STEPS, "eval_every": 0, "save_every": 0}
CONFIGS: dict[str, Callable[..., StageConfig]] = {
    "mdlm": mdlm_config,
    "ae": ae_config,
    "prior": prior_config,
    "student": distill_config,
}


@pytest.fixture(scope="session")
def commands(tiny_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The training commands by name, each on the parts of the tiny chain; --out is left to the test.

    The base is trained with Muon, the rest with AdamW.
    """
    text = ""
    for stage, make in CONFIGS.items():
        values = make(**SHARED, optimizer="muon" if stage == "mdlm" else "adamw").to_dict()
        text += f"[{stage}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    settings = tmp_path_factory.mktemp("settings") / "tiny.toml"
    settings.write_text(text)
    chain = tiny_chain
    found: Commands = {
        "mdlm": ["train-mdlm", "--data", chain.data],
        "ae": ["train-ae", "--base", chain.mdlm],
        "prior": ["train-prior", "--ae", chain.ae],
        "student": ["distill", "--prior", chain.prior],
    }
    return {name: [*command, "--config", settings] for name, command in found.items()}
