"""diladiff: fast, high-quality text from latent-augmented masked diffusion language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diladiff_cli.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `diladiff --help` does not import torch.
    if name in ("Model", "load"):
        from diladiff_cli import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
