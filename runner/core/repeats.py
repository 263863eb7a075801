"""repeats.jsonl: one line for each repeat of each measure of a job. `runner-compare` compares these.

    {"measure": "decode_tok_per_s/batch_4_prompt_64", "repeat": 1, "value": 812.5}

A measure is named as the metric that the job reports of it, the median. Warm-up runs are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from runner.core.errors import cannot_write

FILE = "repeats.jsonl"


class RepeatLog:
    """Writes the repeats of a job, each as soon as it is measured."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._write("", mode="w")  # a job that begins again measures again

    def add(self, repeat: int, values: Mapping[str, float]) -> None:
        """Append what one repeat measured: measure -> value."""
        lines = ({"measure": name, "repeat": repeat, "value": value} for name, value in values.items())
        self._write("".join(json.dumps(line) + "\n" for line in lines))

    def _write(self, text: str, mode: str = "a") -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def read_repeats(path: Path) -> dict[str, list[float]]:
    """Return the values of each measure; without those of fewer repeats, e.g. of a cell that ran out of memory.

    Raises ValueError, KeyError or TypeError where a line is not a repeat.
    """
    found: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        repeat = json.loads(line)
        found.setdefault(repeat["measure"], []).append(float(repeat["value"]))
    most = max(map(len, found.values()), default=0)
    return {measure: values for measure, values in found.items() if len(values) == most}
