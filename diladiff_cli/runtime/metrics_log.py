"""``metrics.jsonl``: one JSON object a line, in the order of steps, without gaps or duplicates after a resume."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; an empty list where there is none."""
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or "step" not in line:
            break  # cut off by a kill
        found.append(line)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


class MetricsLog:
    """Appends to ``metrics.jsonl``, after dropping what lies beyond the step resumed from."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite, which JSON does not have, become null."""
        with self.path.open("a") as file:
            file.write(json.dumps(_finite(dict(values)), allow_nan=False) + "\n")
