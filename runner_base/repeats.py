"""The repeats of what a job measures: repeats.jsonl has one line for each repeat of each measure.

`runner-compare` compares these:

    {"measure": "decode_tok_per_s/batch_4_prompt_64", "repeat": 1, "value": 812.5}

A measure has the name of the job's metric, which is the median of its repeats. Warm-up runs are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runner_base.errors import cannot_write
from runner_base.sealed_lines import CHECKSUM, sealed, unsealed
from runner_base.texts import parse_json

REPEATS = "repeats.jsonl"


class RepeatLog:
    """Writes the repeats of a job, each as soon as it is measured."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REPEATS
        self._write("", mode="w")  # a job that starts again measures again

    def add(self, repeat: int, values: Mapping[str, float]) -> None:
        """Append what one repeat measured: measure -> value."""
        lines = ({"measure": name, "repeat": repeat, "value": value} for name, value in values.items())
        self._write("".join(sealed(line) + "\n" for line in lines))

    def _write(self, text: str, mode: str = "a") -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def read_repeats(path: Path) -> dict[str, list[float]]:
    """Return the values of each measure, without measures with fewer repeats, e.g. of a cell that
    ran out of memory.

    Raises ValueError, KeyError or TypeError if a line is not a repeat.
    """
    by_measure: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        # earlier versions wrote none
        repeat = unsealed(line) if CHECKSUM in line else parse_json(line)
        by_measure.setdefault(repeat["measure"], []).append(float(repeat["value"]))
    most = max(map(len, by_measure.values()), default=0)
    return {measure: values for measure, values in by_measure.items() if len(values) == most}
