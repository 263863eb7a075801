"""What a reader of another tool's results returns: evaluations with verdicts, and measurements of speed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.compare.lm_eval_keys import text_of
from runner.core.errors import DataError

LONGEST_TEXT = 4000  # characters of an answer that are kept: its end, as the page of samples shows
METRIC = "task.metric"


@dataclass
class ToolSample:
    """How one sample of an evaluation was answered."""

    sample_id: str
    question: str
    gold: str
    solved: bool
    answer: str | None = None  # what was extracted from the text
    text: str = ""
    has_error: bool = False
    right: tuple[int, int] = (0, 0)  # of several answers to it: how many are right, and how many there are


@dataclass
class ToolRun:
    """One evaluation by one metric, or one measurement of speed, as another tool has written it."""

    tool: str
    path: Path
    task: str  # the runs of a task share a table
    time: str  # as text that sorts by time; of equal evaluations in a folder the newest counts
    params: dict[str, str]
    task_version: str = ""
    samples: list[ToolSample] = field(default_factory=list)
    repeats: dict[str, list[float]] = field(default_factory=dict)  # by measure; empty for an evaluation
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What the verdicts were made by."""
        return self.params.get(METRIC, "")


@dataclass
class ToolFile:
    """What one file holds."""

    runs: list[ToolRun]
    left_out: list[str] = field(default_factory=list)  # metrics that cannot be compared


def params_of(group: str, values: Any) -> dict[str, str]:
    """Return an object's values as settings of a group, without those that are not set."""
    pairs = values.items() if isinstance(values, dict) else ()
    return {f"{group}.{key}": text_of(value) for key, value in pairs if value is not None}


def check_samples_differ(path: Path, samples: Iterable[ToolSample]) -> None:
    """Raise DataError if a sample is duplicated, or if there is none."""
    seen = set[str]()
    for one in samples:
        if one.sample_id in seen:
            raise DataError(f"{path}: sample {one.sample_id} is duplicated")
        seen.add(one.sample_id)
    if not seen:
        raise DataError(f"{path}: there is no sample in it")


def as_verdict(value: object) -> bool | None:
    """Return whether a value of 0 or 1 means right; None for any other value."""
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
