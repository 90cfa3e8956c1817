"""Matrix products in bf16."""

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which matrix products are made in bf16 where ``precision`` is "bf16", else nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
