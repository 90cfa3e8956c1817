"""The generated model card of an artifact."""

import json
from collections.abc import Mapping
from typing import Any

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


def model_card(config: Mapping[str, Any]) -> str:
    """Markdown with Hub metadata: what the artifact is, how it was made, how to use it."""
    stage = config["stage"]
    parents = "".join(f"- {name}: `{link['path']}` ({link['hash'][:12]})\n" for name, link in config["parents"].items())
    parents = parents or "- no parent: trained from scratch\n"
    return f"""---
library_name: diladiff
pipeline_tag: text-generation
tags: [diffusion, masked-diffusion, latent-diffusion]
---

# {TITLES[stage]}

Made with diladiff {config["package_version"]}. Use it with:

    {USES[stage].format(path="PATH")}

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
