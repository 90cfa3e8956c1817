"""Whole configurations by name, as ``--preset`` picks them: plain data, checked where it is used."""

from typing import Any

_DEMO = {
    "optimizer": "muon",
    "batch_size": 64,
    "compile": False,
    "lr_schedule": "linear",
    "log_every": 20,
    "eval_batches": 4,
}
_SMALL = {"batch_size": 256, "compile": True, "max_steps": 50_000}
_OWT = {"batch_size": 512, "compile": True}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "demo": {
        "data": {"length": 64, "tokenizer": "train:4096"},
        "mdlm": _DEMO
        | {"width": 256, "layers": 4, "heads": 4, "tie_embeddings": True, "max_steps": 500, "warmup_steps": 50}
        | {"learning_rate": 4e-3, "ema_decay": 0.995, "activation": "gelu", "positions": "local"}
        | {"eval_every": 250, "save_every": 250},
        "ae": _DEMO
        | {"latent_width": 64, "encoder_width": 128, "max_steps": 240, "warmup_steps": 40, "decoder_warmup_steps": 80}
        | {"learning_rate": 6e-3, "ema_decay": 0.99, "eval_every": 0, "save_every": 120},
        "prior": _DEMO
        | {"width": 192, "layers": 4, "heads": 4, "max_steps": 750, "warmup_steps": 60}
        | {"learning_rate": 3e-3, "ema_decay": 0.995, "eval_every": 375, "save_every": 375},
        "student": _DEMO
        | {"max_steps": 200, "warmup_steps": 40, "tangent_warmup_steps": 80, "learning_rate": 5e-4}
        | {"ema_decay": 0.99, "eval_every": 200, "save_every": 200},
    },
    "small": {
        "data": {"length": 256, "tokenizer": "train:8192"},
        "mdlm": _SMALL | {"width": 512, "layers": 8, "heads": 8, "positions": "local"},
        "ae": _SMALL | {"latent_width": 256, "learning_rate": 2e-4},
        "prior": _SMALL | {"width": 512, "layers": 8, "heads": 8},
        "student": _SMALL | {"max_steps": 25_000},
    },
    "owt": {
        "data": {"length": 1024, "tokenizer": "bert-base-uncased", "valid_share": 0.0125},
        "mdlm": _OWT | {"max_steps": 1_000_000},
        "ae": _OWT
        | {"max_steps": 200_000, "features": "google-bert/bert-base-uncased"}
        | {"eval_every": 5_000},  # seldom: it runs the networks twenty times and more
        "prior": _OWT | {"max_steps": 150_000, "positions": "rotary"},
        "student": {"batch_size": 2048, "p_jumps": 0.0},
    },
}
