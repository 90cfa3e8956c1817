"""The generated model card of an artifact."""

import json
import re
from collections.abc import Mapping
from typing import Any

from diladiff_cli.settings import flag, shown

TITLES = {
    "mdlm": "Masked diffusion base (MDLM)",
    "ae": "Auto-encoder: latent encoder and latent-conditioned decoder",
    "prior": "Latent diffusion prior (LaDiff)",
    "student": "Few-step latent student (DiLaDiff)",
}
USES = {
    "mdlm": "diladiff sample --model {path} --decode-steps 64",
    "ae": "diladiff train-prior --ae {path}",
    "prior": "diladiff sample --model {path} --steps 50 --decode-steps 16",
    "student": "diladiff sample --model {path} --steps 2 --decode-steps 16",
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


def _metadata(export: Mapping[str, Any]) -> str:
    """Lines of Hub metadata on what only the one who exports a model can know."""
    lines = [f"license: {json.dumps(export['license'])}\n"] if export.get("license") else []
    if codes := export.get("language"):
        lines.append(f"language: [{', '.join(json.dumps(code) for code in codes.split(','))}]\n")
    return "".join(lines)


def _sampling(sampling: Mapping[str, Any]) -> str:
    """A paragraph on settings that ``sample`` takes from the model."""
    if "latent_scale" not in sampling:
        return ""
    return f"\nDrawn latents are multiplied by {sampling['latent_scale']} unless `--latent-scale` says otherwise.\n"


def model_card(config: Mapping[str, Any]) -> str:
    """Markdown with Hub metadata: what the artifact is, how it was made, how to use it."""
    stage = config["stage"]
    parents = "".join(f"- {name}: `{link['path']}` ({link['hash'][:12]})\n" for name, link in config["parents"].items())
    parents = parents or "- no parent: trained from scratch\n"
    return f"""---
library_name: diladiff
pipeline_tag: text-generation
{_metadata(config.get("export", {}))}tags: [diffusion, masked-diffusion, latent-diffusion]
---

# {TITLES[stage]}

Made with diladiff {config["package_version"]}. Use it with:

    {USES[stage].format(path="PATH")}
{_sampling(config.get("sampling", {}))}
## Made from

{parents}- data set fingerprint: `{config["data"].get("fingerprint", "unknown")}`

## Training

Progress: `{json.dumps(config["progress"])}`

```json
{json.dumps(config["training"], indent=2)}
```

## Network

```json
{json.dumps(config["network"], indent=2)}
```
"""
