"""Feature sources of the auto-encoder: a frozen network's last hidden states on the clean text."""

from pathlib import Path

import torch
from torch import Tensor, nn

from diladiff_cli.errors import UserError
from diladiff_cli.networks.denoiser import TokenDenoiser


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
        name: Hub id or folder.
        vocab_size: Of the token data set, the encoder's must be as large.
        length: Of the token data set, the encoder must take texts as long.

    Raises:
        UserError: The encoder cannot be loaded, or does not fit the tokens.
    """

    def __init__(self, name: str, vocab_size: int, length: int) -> None:
        super().__init__()
        from transformers import AutoModel

        try:
            self.model = AutoModel.from_pretrained(name, trust_remote_code=False).requires_grad_(False).eval()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--features {name} cannot be loaded ({reason})", "give self, a Hub id or a folder"
            ) from error
        config = self.model.config
        if config.vocab_size < vocab_size:
            raise UserError(
                f"--features {name} has {config.vocab_size} tokens, the data {vocab_size}",
                "encode the text with that model's tokenizer, or use --features self",
            )
        if getattr(config, "max_position_embeddings", length) < length:
            raise UserError(
                f"--features {name} reads at most {config.max_position_embeddings} tokens, the data has {length}",
                "encode the text with a smaller --length, or use --features self",
            )
        self.width = int(config.hidden_size)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, L) clean tokens -> (B, L, D)."""
        hidden: Tensor = self.model(input_ids=x, attention_mask=torch.ones_like(x)).last_hidden_state
        return hidden


FeatureSource = SelfFeatures | EncoderFeatures


def check_same_vocabulary(name: str, tokenizer_path: Path) -> None:
    """Refuse an encoder whose own tokenizer differs from the data's.

    Raises:
        UserError: Both have a tokenizer, and the vocabularies differ.
    """
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(name, trust_remote_code=False).get_vocab()
    except (OSError, ValueError, KeyError):
        return  # a folder with weights only: the size check has to do
    ours = AutoTokenizer.from_pretrained(tokenizer_path, trust_remote_code=False).get_vocab()
    if any(theirs.get(token, index) != index for token, index in ours.items()):
        raise UserError(
            f"--features {name} has another vocabulary than the data set",
            f"encode the text with --tokenizer {name}, or use --features self",
        )
