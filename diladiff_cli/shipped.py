"""Where the model and the text lie that ship with the package."""

from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"
SHIPPED_MODEL = _ASSETS / "model"
SHIPPED_TEXT = _ASSETS / "text"
