"""What a reader of another tool's results returns: evaluations with verdicts or numbers, and measurements of speed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.compare.lm_eval_keys import text_of
from runner.core.errors import DataError
from runner.core.metrics import Better

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
    number: float | None = None  # its score; None: the tool has written none
    fields: dict[str, str] = field(default_factory=dict)  # what the tool keeps with it, and --cluster may name


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
    better: Better | None = None  # the direction of its numbers; None: it says right or wrong for each sample

    @property
    def metric(self) -> str:
        """What the samples were scored by."""
        return self.params.get(METRIC, "")


@dataclass
class ToolFile:
    """What one file holds."""

    runs: list[ToolRun]
    left_out: list[str] = field(default_factory=list)  # metrics that cannot be compared


def texts_of(fields: Any) -> dict[str, str]:
    """Return the fields of an object that are a text or a whole number: those that can name a family."""
    pairs = fields.items() if isinstance(fields, dict) else ()
    return {key: str(value) for key, value in pairs if isinstance(value, str | int) and not isinstance(value, bool)}


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


def as_number(value: object) -> float | None:
    """Return a value as a number; None if it is none."""
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None
