"""Reads and writes repeats.jsonl, which contains one line per repeat of a measurement and per metric.

`runner-compare` compares these:

    {"measure": "decode_tok_per_s/batch_4_prompt_64", "repeat": 1, "value": 812.5}

A measure has the name of the job's metric, which is the median of its repeats. Warm-up runs
are not included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runner_base.errors import convert_write_error
from runner_base.signed_jsonl import CHECKSUM, dump_signed_line, parse_signed_line
from runner_base.texts import parse_json

REPEATS = "repeats.jsonl"
REPEATS_FACT, FRESH_PROCESSES = "repeats", "each in a fresh process"  # fact of a job, and its value


class RepeatLog:
    """Appends repeated measurements to repeats.jsonl, each as soon as it is available."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REPEATS
        self._write_text("", mode="w")  # a job that starts again measures again

    def add_repeat(self, repeat: int, measurements: Mapping[str, float]) -> None:
        """Append one line per metric with its value in this repeat."""
        self._write_text("".join(_format_lines(repeat, measurements)))

    def _write_text(self, text: str, mode: str = "a") -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise convert_write_error(self.path, error) from error


def _format_lines(repeat: int, measurements: Mapping[str, float]) -> Iterator[str]:
    for name, value in measurements.items():
        yield dump_signed_line({"measure": name, "repeat": repeat, "value": value}) + "\n"


def format_repeated_measurements_as_jsonl(measures: Mapping[str, Sequence[float]]) -> str:
    """Return the content of repeats.jsonl for metrics that were measured in all repeats."""
    repeats = zip(*measures.values(), strict=True)
    return "".join(
        line
        for number, values in enumerate(repeats, 1)
        for line in _format_lines(number, dict(zip(measures, values, strict=True)))
    )


def read_repeats(path: Path) -> dict[str, list[float]]:
    """Return the values of each metric that was measured in all repeats. See parse_metric_values_of_repeats."""
    return parse_metric_values_of_repeats(path.read_text(encoding="utf-8"))


def parse_metric_values_of_repeats(text: str) -> dict[str, list[float]]:
    """Return the values of each metric that was measured in all repeats.

    A metric with fewer repeats, e.g. one that ran out of memory, is omitted. Raises
    ValueError, KeyError or TypeError if a line is not a repeat.
    """
    by_measure: dict[str, list[float]] = {}
    for line in text.splitlines():
        # earlier versions wrote none
        repeat = parse_signed_line(line) if CHECKSUM in line else parse_json(line)
        by_measure.setdefault(repeat["measure"], []).append(float(repeat["value"]))
    most = max(map(len, by_measure.values()), default=0)
    return {measure: values for measure, values in by_measure.items() if len(values) == most}
