"""The generated model card of an artifact."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from diladiff_cli.integrity import short_hash
from diladiff_cli.settings import flag, shown

TITLES = {
    "mdlm": "Masked diffusion base (MDLM)",
    "ae": "Auto-encoder: latent encoder and latent-conditioned decoder",
    "prior": "Latent diffusion prior (LaDiff)",
    "student": "Few-step latent student (DiLaDiff)",
}
USES = {
    "mdlm": "diladiff sample --model {path} --decode-steps {steps}",
    "ae": "diladiff train-prior --ae {path}",
    "prior": "diladiff sample --model {path} --steps 50 --decode-steps {steps}",
    "student": "diladiff sample --model {path} --steps 2 --decode-steps {steps}",
}
WRITES = (
    "Writes texts of {length} tokens in the manner of those that it was trained on, after a prompt if there is one.\n"
    "It follows no instructions, knows nothing of truth, may repeat what it was trained on, and nothing filters what\n"
    "it writes."
)
LIMITS = {
    "mdlm": WRITES,
    "ae": "Made for texts of {length} tokens like those that it was trained on; others were not tried.",
    "prior": WRITES,
    "student": WRITES,
}
MEASURED = {
    "mdlm": "On held-out text",
    "ae": "On held-out text",
    "prior": "On latents of held-out text",
    "student": "From the same noise, without gamma, the distance to the prior's 50 steps, guided as in distillation",
}
FIGURES = {  # of validations, in words; docs/metrics.md has the definitions
    "nll": "cross-entropy of masked tokens, nats",
    "bound": "likelihood bound, nats per token",
    "perplexity_bound": "perplexity bound",
    "recovery": "recovery: share of masked tokens that are predicted right",
    "base_nll": "cross-entropy of masked tokens of the base, nats",
    "recovery_all_masked_autoencoder": "recovery where all tokens are masked",
    "recovery_all_masked_base": "recovery of the base where all tokens are masked",
    "recovery_all_masked_noise_latent": "recovery where all tokens are masked and the latent is noise",
    "loss": "mean squared error of the clean estimate",
    "share_of_white": "mean squared error as a share of the least that latents of white noise allow",
    "student_1_steps": "mean squared distance in 1 step",
    "student_2_steps": "mean squared distance in 2 steps",
    "student_5_steps": "mean squared distance in 5 steps",
    "teacher_5_steps": "mean squared distance of the prior itself in 5 steps",
}
METADATA = {  # of an exported model: pattern, and what it means
    "license": (r"[A-Za-z0-9][A-Za-z0-9.+-]*", "the identifier of a licence, apache-2.0 for example"),
    "language": (
        r"[a-z]{2,3}(-[A-Za-z0-9]+)*(,[a-z]{2,3}(-[A-Za-z0-9]+)*)*",
        "codes of languages in lower case with commas, en or en,de",
    ),
}


def metadata_problems(**given: Any) -> list[str]:
    """What is wrong with the values of :data:`METADATA`, a line for each."""
    return [
        f"{flag(name)} is {shown(value)}; give {METADATA[name][1]}"
        for name, value in given.items()
        if value is not None and not (isinstance(value, str) and re.fullmatch(METADATA[name][0], value))
    ]


def _metadata(stage: str, export: Mapping[str, Any]) -> str:
    """Lines of Hub metadata: the task, and what only the one who exports a model can know."""
    lines = [] if stage == "ae" else ["pipeline_tag: text-generation\n"]
    lines += [f"license: {json.dumps(export['license'])}\n"] if export.get("license") else []
    if codes := export.get("language"):
        lines.append(f"language: [{', '.join(json.dumps(code) for code in codes.split(','))}]\n")
    return "".join(lines)


def _sampling(sampling: Mapping[str, Any]) -> str:
    """A paragraph on settings that ``sample`` takes from the model."""
    if "latent_scale" not in sampling:
        return ""
    return f"\nDrawn latents are multiplied by {sampling['latent_scale']} unless `--latent-scale` says otherwise.\n"


def _limits(config: Mapping[str, Any]) -> str:
    """A section on what the artifact is not good for, where its length is known."""
    length = config["data"].get("length")
    return "" if length is None else f"## Limits\n\n{LIMITS[config['stage']].format(length=length)}\n\n"


def _figures(stage: str, progress: Mapping[str, Any]) -> str:
    """A section with the single figures of the last validation; nothing before there was one."""
    figures = {k: v for k, v in progress.get("validation", {}).items() if isinstance(v, float) and math.isfinite(v)}
    if not figures:
        return ""
    rows = "".join(f"| {FIGURES.get(k, k)} | {v:.4g} |\n" for k, v in figures.items())
    when = f"by the validation after step {progress.get('validated_step', progress['step']):,}"
    return f"## Figures\n\n{MEASURED[stage]}, {when}:\n\n| figure | value |\n| --- | --- |\n{rows}\n"


def model_card(config: Mapping[str, Any]) -> str:
    """Markdown with Hub metadata: what the artifact is, how it was made, how to use it."""
    stage = config["stage"]
    links = config["parents"].items()
    parents = "".join(f"- {name}: `{link['path']}` ({short_hash(link['hash'])})\n" for name, link in links)
    progress = config["progress"]
    if "init" in config:
        parents = f"- began with the weights of `{config['init']['source']}` ({short_hash(config['init']['hash'])})\n"
    parents = parents or "- no parent: trained from scratch\n"
    return f"""---
library_name: diladiff
{_metadata(stage, config.get("export", {}))}tags: [diffusion, masked-diffusion, latent-diffusion]
---

# {TITLES[stage]}

Made with diladiff {config["package_version"]}. Use it with:

    {USES[stage].format(path="PATH", steps=min(64 if stage == "mdlm" else 16, config["data"].get("length", 64)))}
{_sampling(config.get("sampling", {}))}
{_limits(config)}## Made from

{parents}- data set fingerprint: `{config["data"].get("fingerprint", "unknown")}`

{_figures(stage, progress)}## Training

Steps: {progress.get("step", 0):,}, in {progress.get("seconds", 0) / 60:,.1f} minutes.

```json
{json.dumps(config["training"], indent=2)}
```

## Network

```json
{json.dumps(config["network"], indent=2)}
```
"""
