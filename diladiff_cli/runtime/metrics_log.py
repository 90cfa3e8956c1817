"""``metrics.jsonl``: one JSON object a line, in the order of steps, without gaps or duplicates after a resume."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; an empty list where there is none."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            break  # a line cut off by a kill
    return found


class MetricsLog:
    """Appends to ``metrics.jsonl``, after dropping what lies beyond the step resumed from."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps(dict(values)) + "\n")
