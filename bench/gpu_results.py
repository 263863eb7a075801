"""Results of the steps of gpu_all.py: their file, and their tables at 100 columns."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import groupby
from pathlib import Path

from latest import Figure

from runner_base.files import replace_text_file_atomically

WIDTH = 100
WHAT_WIDTH, VERDICT_WIDTH = 40, 4
RESULTS_NAME, TABLES_NAME = "gpu_all.json", "gpu_all.txt"


class Status(StrEnum):
    """How a step ended."""

    done = "done"
    failed = "failed"
    timed_out = "timed out"
    not_run = "not run"  # something that the step needs is missing here
    not_started = "not started"  # the time was up; never stored


@dataclass(frozen=True)
class Check:
    """A statement that was tested. `passed` is None where there is nothing to judge."""

    what: str
    measured: str
    passed: bool | None = None


@dataclass(frozen=True)
class Place:
    """The hardware and the versions of a step."""

    card: str = "unknown"
    driver: str = "-"
    torch: str = "unknown"


@dataclass
class StepOutput:
    """What a step's process has written so far."""

    place: Place = Place()
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: str = ""  # why the step was not run

    def write(self, file: Path) -> None:
        replace_text_file_atomically(file, json.dumps(asdict(self)))

    @staticmethod
    def read(file: Path) -> StepOutput:
        """Return an empty output if the file does not exist."""
        if not file.exists():
            return StepOutput()
        return _parse_output(json.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class StepResult:
    """A step that ended, or that did not start."""

    step: str
    status: Status
    device: str
    date: str
    took_s: float
    reason: str = ""
    last_lines: list[str] = field(default_factory=list)  # of the log, if the step failed
    output: StepOutput = field(default_factory=StepOutput)

    @property
    def is_final(self) -> bool:
        """Whether the same command does not repeat the step."""
        return self.status in (Status.done, Status.failed, Status.timed_out)

    @property
    def passed(self) -> bool:
        checks_pass = all(check.passed is not False for check in self.output.checks)
        return checks_pass and self.status not in (Status.failed, Status.timed_out)


def _parse_output(values: dict[str, object]) -> StepOutput:
    def rows(key: str) -> Iterable[dict[str, object]]:
        found = values[key]
        assert isinstance(found, list)
        return found

    place = values["place"]
    assert isinstance(place, dict)
    return StepOutput(
        Place(**place),
        [Check(**row) for row in rows("checks")],  # type: ignore[arg-type]
        [Figure(**row) for row in rows("figures")],  # type: ignore[arg-type]
        str(values["missing"]),
    )


def write_results(folder: Path, results: Sequence[StepResult]) -> None:
    """Replace the results of a folder atomically: a killed run leaves the old file or the new one."""
    text = json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False) + "\n"
    replace_text_file_atomically(folder / RESULTS_NAME, text)


def read_results(file: Path) -> list[StepResult]:
    """Return the stored results; an empty list if the file does not exist."""
    if not file.exists():
        return []
    stored = json.loads(file.read_text(encoding="utf-8"))
    return [
        StepResult(**(one | {"status": Status(one["status"]), "output": _parse_output(one["output"])}))
        for one in stored
    ]


def render_result(result: StepResult) -> str:
    """Return the table of a step."""
    place = result.output.place
    ended = {Status.not_run: "", Status.not_started: ""}.get(result.status, f" in {result.took_s:.0f} s")
    driver = "" if place.driver == "-" else f", driver {place.driver}"
    where = f"{place.card}{driver}, torch {place.torch}, {result.date}"
    lines = [f"{result.step}: {result.status}{ended}"]
    if result.status is not Status.not_started:
        lines += textwrap.wrap(where, WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines.append("-" * WIDTH)
    if result.reason:
        lines += textwrap.wrap(result.reason, WIDTH, initial_indent="  ", subsequent_indent="  ")
    for check in result.output.checks:
        verdict = {True: "PASS", False: "FAIL", None: "-"}[check.passed]
        lines += _render_row(check.what, check.measured, verdict)
    for (what, unit), figures in groupby(result.output.figures, key=lambda one: (one.what, one.unit)):
        lines += _render_row(what, "; ".join(one.words for one in figures) + f" {unit}", "")
    lines += [f"  | {line}"[:WIDTH] for line in result.last_lines]
    return "\n".join(lines) + "\n"


def render_summary(results: Sequence[StepResult]) -> str:
    """Return one line with the failed steps and the steps that did not run."""
    failed = [result.step for result in results if not result.passed]
    skipped = [result.step for result in results if not result.is_final]
    line = f"FAIL: {', '.join(failed)}" if failed else "PASS"
    line += f"; not run: {', '.join(skipped)}" if skipped else ""
    return textwrap.fill(line, WIDTH, subsequent_indent="  ")


def _render_row(what: str, measured: str, verdict: str) -> list[str]:
    left = textwrap.wrap(what, WHAT_WIDTH)
    right = textwrap.wrap(measured, WIDTH - WHAT_WIDTH - VERDICT_WIDTH - 4) or [""]
    rows = []
    for at in range(max(len(left), len(right))):
        one, other = (column[at] if at < len(column) else "" for column in (left, right))
        mark = verdict if at == 0 else ""
        rows.append(f"  {mark:{VERDICT_WIDTH}} {one:{WHAT_WIDTH}} {other}".rstrip())
    return rows
