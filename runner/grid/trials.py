"""The trials of a search, which are launched in batches: counted, shown and ranked together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runner.core.console import plain
from runner.core.errors import RunnerError
from runner.core.metrics import described
from runner.core.result import Record, Status
from runner.grid.plan import Outcome, PlannedJob, objective
from runner.grid.show import GridView, labels, show_hints, table_lines
from runner.report import show_grid


@dataclass
class Trials:
    """All trials of a search, over all batches in which they are launched."""

    wanted: int = 0  # how many trials there will be, as far as that is known
    keys: tuple[str, ...] = ()  # the keys that are searched over
    maximize: bool = True
    unnamed: frozenset[str] = frozenset()  # keys that the search sets itself, which tell no trial from another
    plan: list[PlannedJob] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        """The number of trials, or how many there are at least."""
        return max(self.wanted, len(self.plan))

    def view(self) -> GridView:
        """Return a view that continues to count where the batch before has ended."""
        failed = sum(outcome.status is not Status.FINISHED for outcome in self.outcomes.values())
        names = labels(self.plan, self.keys)
        return GridView(names, self.total, done=len(self.outcomes), failed=failed, began=self.began)

    def best(self) -> tuple[PlannedJob, str, float] | None:
        """Return the best trial with the name and value of its objective; ties go to the first."""
        scored = [
            (planned, *score)
            for number, planned in enumerate(self.plan)
            if (outcome := self.outcomes.get(number)) and outcome.record and (score := _score(outcome.record))
            if not outcome.record.result.metrics.get("questions_left")  # a job that was stopped has asked fewer
        ]
        return max(scored, key=lambda it: it[2] if self.maximize else -it[2], default=None)

    def show(self) -> None:
        """Print the table of all trials and the best one."""
        settings = next((planned.config for planned in self.plan if planned.config is not None), None)
        if settings is None:
            return
        interrupted = len(self.outcomes) < len(self.plan)
        lines = table_lines(self.plan, self.outcomes, interrupted, self.keys)
        for line in lines:
            if line.metric("questions_left"):
                line.status = "pruned"
        show_grid(lines, settings.print)
        if settings.print.is_table and (best := self.best()) is not None:
            planned, name, value = best
            metric = described(name)
            result = f"{metric.label} {metric.write(value)} {metric.unit}".rstrip()
            values = " ".join(text for text in planned.overrides if text.partition("=")[0] in self.keys)
            print(plain(f"best of {len(self.outcomes)} trials: {result}, {planned.job_id}\n  {values}"))
        show_hints(settings)


def _score(record: Record) -> tuple[str, float] | None:
    try:
        return objective(record)
    except RunnerError:
        return None
