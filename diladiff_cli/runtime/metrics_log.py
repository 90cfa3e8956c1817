"""``metrics.jsonl``: one JSON object a line, in the order of steps, without gaps or duplicates after a resume."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diladiff_cli.errors import writing
from diladiff_cli.integrity import check_log, finite
from diladiff_cli.runtime.folders import METRICS_FILE, partial_name, replacing_file


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; an empty list where there is none.

    Raises:
        UserError: The file beside a config.json does not begin with what that recorded.
    """
    return list(_iter_metrics(path))


def _iter_metrics(path: Path) -> Iterator[dict[str, Any]]:
    if path.name == METRICS_FILE:
        check_log(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                return  # cut off by a kill
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                return
            yield line


class MetricsLog:
    """Appends to the log of a run, after dropping what lies beyond the step resumed from.

    A run that starts over writes beside the old artifact until its first checkpoint replaces that.

    Args:
        out: Folder of the artifact.
        step: The step resumed from; 0 for a new run.
        validated_step: That of the last validation which the run resumed from knows.

    Raises:
        UserError: The log cannot be written, or the one to go on with is damaged.
    """

    def __init__(self, out: Path, step: int, validated_step: int) -> None:
        self._final = out / METRICS_FILE
        starts_over = step == 0 and (out / "config.json").exists()
        self.path = partial_name(out) if starts_over else self._final
        with writing(out, self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if starts_over:
                self.path.touch()
                return
            with replacing_file(self.path) as whole, whole.open("w", encoding="utf-8") as file:
                for line in _iter_metrics(self.path):
                    if line["step"] <= (validated_step if line.get("split") == "valid" else step):
                        file.write(json.dumps(line) + "\n")

    def saved(self) -> None:
        """A checkpoint with a copy of the log is in place: go on there."""
        if self.path != self._final:
            self.path.unlink(missing_ok=True)
            self.path = self._final

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite, which JSON does not have, become null."""
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(dict(values)), allow_nan=False) + "\n")
