"""Config keys of early stopping, which tasks with one verdict per question share (runner/tasks/early_stop.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from runner.config.questions import OTHER_JOB, WORDS_FOR_A_JOB
from runner.config.task import TaskConfig
from runner_base import NotInIdentity, ValueConstraint, at_least, check_value, config_field

MARGIN = ValueConstraint(
    lambda points: 0 < points < 100,
    "give percentage points between 0 and 100, such as 2, or null for no margin",
)
IN_INPUT_HASHES = NotInIdentity("the input hashes include this value if early stopping is used")


@dataclass
class EarlyStopConfig(TaskConfig):
    """Config keys shared by the tasks that can stop when the comparison with a baseline is decided."""

    comparisons_key: ClassVar[str] = "early_stop_comparisons"
    # the values of other keys with which questions are independent, and in the baseline's order
    early_stop_needs: ClassVar[Mapping[str, Any]] = {}
    early_stop_vs: str | None = config_field(None, OTHER_JOB, WORDS_FOR_A_JOB)
    early_stop_margin: float | None = config_field(None, IN_INPUT_HASHES, MARGIN)
    early_stop_comparisons: int | None = config_field(
        None, IN_INPUT_HASHES, at_least(1, ", or null for the number of jobs in the grid")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        is_compared = self.early_stop_vs is not None
        need = "no baseline is given. Give task.early_stop_vs, or omit this key"
        for key in ("early_stop_margin", "early_stop_comparisons"):
            value = getattr(self, key)
            check_value(value is None or is_compared, f"task.{key}", value, need, code="no_effect")
        for key, needed in self.early_stop_needs.items():
            value, shown = getattr(self, key), "null" if needed is None else needed
            need = (
                "task.early_stop_vs needs independent questions in the baseline's order. "
                f"Set task.{key}={shown}, or omit task.early_stop_vs"
            )
            check_value(not is_compared or value == needed, f"task.{key}", value, need, code="conflict")

    @property
    def baseline_name(self) -> str | None:
        return self.early_stop_vs
