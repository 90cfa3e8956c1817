"""Where the model, the text and the page lie that ship with the package."""

from pathlib import Path

SHIPPED_NAME = "shipped"  # what the model is called, where a folder is asked for and in what was drawn from it
_ASSETS = Path(__file__).parent / "assets"
SHIPPED_MODEL = _ASSETS / "model"
SHIPPED_TEXT = _ASSETS / "text"
TRACE_PAGE = _ASSETS / "trace.html"
