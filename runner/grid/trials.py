"""The trials of a search, which are launched in batches: counted, shown and ranked together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runner.grid.best_trial import Scored, doubts
from runner.grid.live_view import GridView
from runner.grid.outcomes import Outcome, objective
from runner.grid.plan import PlannedJob
from runner.grid.show import labels, show_hints, table_lines
from runner.render.notes import render_notes
from runner.report import show_grid
from runner_base import Record, RunnerError, Status, plain


@dataclass
class Trials:
    """All trials of a search, over all batches in which they are launched."""

    wanted: int = 0  # how many trials there will be, as far as that is known
    keys: tuple[str, ...] = ()  # the keys that are searched over
    maximize: bool = True
    # keys that the search sets itself, which tell no trial from another
    unnamed: frozenset[str] = frozenset()
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

    def scored(self) -> list[Scored]:
        """Return the trials that have asked everything, with their objectives."""
        return [
            Scored(planned, outcome.record.result.metrics, *score)
            for number, planned in enumerate(self.plan)
            if (outcome := self.outcomes.get(number)) and outcome.record and (score := _score(outcome.record))
            # a job that was stopped has asked fewer
            if not outcome.record.result.metrics.get("questions_left")
        ]

    def best_lines(self) -> list[str]:
        """Return what is said of the best trial; ties go to the first."""
        sign, scored = 1 if self.maximize else -1, self.scored()
        best = max(scored, key=lambda trial: sign * trial.value, default=None)
        if best is None:
            return []
        values = " ".join(text for text in best.planned.overrides if text.partition("=")[0] in self.keys)
        return [
            f"best of {len(self.outcomes)} trials: {best.result()}, {best.planned.job_id}",
            f"  {values}",
            *render_notes(doubts(best, scored, self.keys, self.maximize)),
        ]

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
        if settings.print.is_table and (lines_of_best := self.best_lines()):
            print(plain("\n".join(lines_of_best)))
        show_hints(settings)


def _score(record: Record) -> tuple[str, float] | None:
    try:
        return objective(record)
    except RunnerError:
        return None
