"""Collects the trials of a search, which run in batches, for one progress display and one table."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from runner.grid.best_trial import ScoredTrial, make_best_trial_notes
from runner.grid.grid_output import build_grid_table_rows, build_job_labels, print_next_step_hints
from runner.grid.live_view import GridView
from runner.grid.outcomes import JobOutcome, extract_objective
from runner.grid.plan import PlannedJob
from runner.render.notes import render_notes
from runner.report import print_grid_results
from runner_base import Record, RunnerError, Status, escape_control_characters


@dataclass
class Trials:
    """All trials of a search, over all batches."""

    wanted: int = 0  # how many trials there will be, as far as that is known
    keys: tuple[str, ...] = ()  # the keys that are searched over
    maximize: bool = True
    # keys that the search sets itself, which tell no trial from another
    unnamed: frozenset[str] = frozenset()
    plan: list[PlannedJob] = field(default_factory=list)
    outcomes: dict[int, JobOutcome] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        return max(self.wanted, len(self.plan))

    def create_trial_progress_view(self) -> GridView:
        """Return a progress display whose job count includes the trials of earlier batches."""
        failed = sum(outcome.status is not Status.FINISHED for outcome in self.outcomes.values())
        names = build_job_labels(self.plan, self.keys)
        return GridView(names, self.total, done=len(self.outcomes), failed=failed, began=self.began)

    def list_scored_trials(self) -> list[ScoredTrial]:
        """Return the trials in which all questions were answered, with their objectives."""
        return [
            ScoredTrial(planned, outcome.record.result.metrics, *score)
            for number, planned in enumerate(self.plan)
            if (outcome := self.outcomes.get(number))
            and outcome.record
            and (score := _objective_or_none(outcome.record))
            # a job that was stopped has asked fewer
            if not outcome.record.result.metrics.get("questions_left")
        ]

    def format_best_trial(self) -> list[str]:
        """Format the best trial as lines of text. Of equal trials, the first is best."""
        sign, scored = 1 if self.maximize else -1, self.list_scored_trials()
        best = max(scored, key=lambda trial: sign * trial.value, default=None)
        if best is None:
            return []
        values = " ".join(text for text in best.planned.overrides if text.partition("=")[0] in self.keys)
        return [
            f"best of {len(self.outcomes)} trials: {best.format_objective()}, {best.planned.job_id}",
            f"  {values}",
            *render_notes(make_best_trial_notes(best, scored, self.keys, self.maximize)),
        ]

    def print_trial_results(self) -> None:
        settings = next((planned.config for planned in self.plan if planned.config is not None), None)
        if settings is None:
            return
        interrupted = len(self.outcomes) < len(self.plan)
        lines = build_grid_table_rows(self.plan, self.outcomes, interrupted, self.keys)
        for line in lines:
            if line.get_metric("questions_left"):
                line.status = "pruned"
        print_grid_results(lines, settings.print)
        if settings.print.is_table and (lines_of_best := self.format_best_trial()):
            print(escape_control_characters("\n".join(lines_of_best)))
        print_next_step_hints(settings)


def _objective_or_none(record: Record) -> tuple[str, float] | None:
    try:
        return extract_objective(record)
    except RunnerError:
        return None
