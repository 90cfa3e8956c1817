"""Feature sources of the auto-encoder: a frozen network's last hidden states on the clean text."""

from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.core.hashing import tensors_hash
from diladiff_cli.networks.denoiser import TokenDenoiser

UNUSED = "pooler."  # weights after the hidden states: some encoders come without, and get random ones


class SelfFeatures(nn.Module):
    """The frozen base's own hidden states: no second model, any tokenizer."""

    def __init__(self, base: TokenDenoiser) -> None:
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.width = base.width

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, L) clean tokens -> (B, L, D)."""
        return self.base.body(x)


class EncoderFeatures(nn.Module):
    """Last hidden states of a Hugging Face encoder that shares the tokenizer.

    Args:
        model: The frozen encoder.
        window: The most tokens that it reads at once; a longer text is read in windows.
    """

    def __init__(self, model: Any, window: int) -> None:
        super().__init__()
        self.model, self.window = model, window
        self.width = int(model.config.hidden_size)

    def hash(self) -> str:
        """Hash of the weights that the features depend on, see :func:`tensors_hash`."""
        weights = self.model.state_dict().items()
        return tensors_hash({name: value for name, value in weights if not name.startswith(UNUSED)})

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, L) clean tokens -> (B, L, D)."""
        windows = torch.split(x, self.window, dim=1)
        hidden = [self.model(input_ids=w, attention_mask=torch.ones_like(w)).last_hidden_state for w in windows]
        return torch.cat(hidden, dim=1)


FeatureSource = SelfFeatures | EncoderFeatures
