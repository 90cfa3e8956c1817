"""Feature sources of the auto-encoder: a frozen network's last hidden states on the clean text."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.core.hashing import tensors_hash
from diladiff_cli.errors import UserError, first_line
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.tokenizer_files import check_tokenizer, tokenizer_folder

UNUSED = "pooler."  # weights behind the hidden states: some encoders come without, and get random ones


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


def _load_encoder(name: str) -> Any:
    """A frozen encoder with all its weights, from safetensors alone."""
    from transformers import AutoModel

    remedy = "give self, a Hub id or a folder with safetensors"
    try:
        model, report = AutoModel.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # missing, unreachable or damaged: transformers raises many kinds
        reason = first_line(error)
        raise UserError(f"--features {name} cannot be loaded ({reason})", remedy) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise UserError(f"--features {name} cannot be loaded (its weights lack {missing[0]})", remedy)
    return model.requires_grad_(False).eval()


class EncoderFeatures(nn.Module):
    """Last hidden states of a Hugging Face encoder that shares the tokenizer.

    Args:
        name: Hub id or folder.
        vocab_size: Of the token data set, the encoder's must be as large.
        length: Of the token data set; an encoder that reads less gets a text in windows.

    Raises:
        UserError: The encoder cannot be loaded, or does not fit the tokens.
    """

    def __init__(self, name: str, vocab_size: int, length: int) -> None:
        super().__init__()
        self.model = _load_encoder(name)
        config = self.model.config
        if config.vocab_size < vocab_size:
            raise UserError(
                f"--features {name} has {config.vocab_size} tokens, the data {vocab_size}",
                "encode the text with that model's tokenizer, or use --features self",
            )
        # The RoBERTa kinds count positions from behind the padding token.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
        self.window = min(length, getattr(config, "max_position_embeddings", length + offset) - offset)
        self.width = int(config.hidden_size)

    def hash(self) -> str:
        """That of the weights that features come from, see :func:`tensors_hash`."""
        weights = self.model.state_dict().items()
        return tensors_hash({name: value for name, value in weights if not name.startswith(UNUSED)})

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, L) clean tokens -> (B, L, D), in windows where the encoder reads less than a text."""
        windows = torch.split(x, self.window, dim=1)
        hidden = [self.model(input_ids=w, attention_mask=torch.ones_like(w)).last_hidden_state for w in windows]
        return torch.cat(hidden, dim=1)


FeatureSource = SelfFeatures | EncoderFeatures


def check_same_vocabulary(name: str, tokenizer_path: Path) -> None:
    """Refuse an encoder whose own tokenizer differs from the data's.

    Raises:
        UserError: Both have a tokenizer, and the vocabularies differ.
    """
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError):  # the last of versions 4 of transformers
        return  # a folder with weights only: the size check has to do
    known = theirs.get_vocab()
    if not known.keys() - set(theirs.all_special_tokens):
        return  # an empty tokenizer, made up where the folder has none
    check_tokenizer(tokenizer_path)
    ours = AutoTokenizer.from_pretrained(tokenizer_folder(tokenizer_path), trust_remote_code=False)
    added = set(ours.all_special_tokens)  # the data's tokenizer may have got a mask token of its own
    if any(known.get(token, index if token in added else None) != index for token, index in ours.get_vocab().items()):
        raise UserError(
            f"--features {name} has another vocabulary than the data set",
            f"encode the text with --tokenizer {name}, or use --features self",
        )
