"""The latest figures of the benchmarks: bench/results/*.json, and the tables of them in README.md.

`python bench/latest.py` renews the tables. A benchmark writes its file with `--save`: add_option,
save.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

from runner_base import machine, processor

BENCH = Path(__file__).resolve().parent
RESULTS, PAGE = BENCH / "results", BENCH / "README.md"
TABLES = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """A figure of a benchmark, with its spread if it was measured more than once."""

    what: str
    unit: str
    median: float
    least: float | None = None
    most: float | None = None
    side: str = ""  # whose figure it is, where several are compared

    @staticmethod
    def of(what: str, unit: str, values: Sequence[float], side: str = "", digits: int = 2) -> Figure:
        """Return the figure of repeated measurements."""
        middle, least, most = (
            round(it, digits) for it in (statistics.median(values), min(values), max(values))
        )
        ends = (least, most) if len(values) > 1 else (None, None)
        return Figure(what, unit, middle, ends[0], ends[1], side)

    @property
    def words(self) -> str:
        spread = "" if self.least is None else f" ({self.least:,}..{self.most:,})"
        return f"{self.side} {self.median:,}{spread}".strip()


@dataclass(frozen=True)
class Measured:
    benchmark: str
    processor: str
    date: str  # as 2026-11-26; empty: not known
    command: str
    figures: list[Figure]
    source: str = "run"  # or the page where the figures stood before there were such files

    def rows(self) -> list[str]:
        """Return its rows of a table: the figures of all sides in one cell."""
        name, came = (
            self.benchmark,
            " ".join(filter(None, (self.date, "" if self.source == "run" else self.source))),
        )
        rows = []
        for (what, unit), figures in groupby(self.figures, key=lambda it: (it.what, it.unit)):
            rows.append(f"| {name} | {what} | {'; '.join(it.words for it in figures)} {unit} | {came} |")
            name = came = ""
        return rows


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that writes the figures."""
    parser.add_argument(
        "--save", action="store_true", help="write the figures to bench/results/, for bench/README.md"
    )


def save(figures: Sequence[Figure], name: str = "") -> None:
    """Write the figures of the benchmark that runs, in place of older ones of this processor."""
    benchmark = Path(sys.argv[0]).stem
    command = f"python bench/{benchmark}.py {shlex.join(it for it in sys.argv[1:] if it != '--save')}".strip()
    measured = Measured(benchmark, this_processor(), date.today().isoformat(), command, list(figures))
    print(f"written: {write(measured, name)}", file=sys.stderr)


def this_processor() -> str:
    """Return the name of this processor, with what RUNNER_WITHOUT leaves out of it."""
    about, left_out = machine.describe_machine(), processor.parse_disabled_cpu_features()
    return f"{about['cpu']}, {about['cores']} cores" + (
        f", without {' and '.join(left_out)}" if left_out else ""
    )


def write(measured: Measured, name: str = "") -> Path:
    """Write a file of results; its name is the benchmark's and the processor's."""
    place = re.sub(r"[^a-z0-9]+", "-", f"{name or measured.benchmark} {measured.processor}".lower()).strip(
        "-"
    )
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{place}.json"
    fields = asdict(measured)
    fields["from"] = fields.pop("source")
    for figure in fields["figures"]:
        for key in [key for key, value in figure.items() if value in (None, "")]:
            del figure[key]
    file.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def read(folder: Path = RESULTS) -> list[Measured]:
    found = []
    for file in folder.glob("*.json"):
        fields = json.loads(file.read_text(encoding="utf-8"))
        figures = [Figure(**it) for it in fields.pop("figures")]
        found.append(Measured(figures=figures, source=fields.pop("from"), **fields))
    return sorted(found, key=lambda it: (it.processor, it.benchmark, it.command))


def tables(found: Sequence[Measured]) -> str:
    lines: list[str] = []
    for where in dict.fromkeys(it.processor for it in found):
        lines += [f"**{where}**", "", "| benchmark | what | figure | from |", "| --- | --- | ---: | --- |"]
        lines += [row for it in found if it.processor == where for row in it.rows()]
        lines.append("")
    return "\n".join(lines)


def renewed(page: str, found: Sequence[Measured]) -> str:
    """Return the page with the tables of these results."""
    text, times = TABLES.subn(lambda marks: f"{marks[1]}\n{tables(found)}\n{marks[2]}", page)
    if times != 1:
        raise SystemExit(f"the page has {times} places for the tables instead of one")
    return text


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")
