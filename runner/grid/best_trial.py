"""Checks whether a search's best trial is significantly better than the other trials.

The best of several scores is also the luckiest one. While its interval overlaps with another
trial's, the scores do not show which trial is better. Only questions that the search has not
used can show it.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runner.grid.plan import PlannedJob
from runner.grid.question_plan import count_available_questions
from runner.tracking import stores
from runner_base.notes import Note, note
from runner_compare import Metric, find_metric

# Trials that differ in one of these ask other questions: no offset leaves all of them behind
SELECTIONS = frozenset(
    f"task.{key}"
    for key in ("data", "subset", "split", "offset", "limit", "shuffle_seed", "only", "unscored")
)


@dataclass(frozen=True)
class ScoredTrial:
    """A finished search trial: its job, its objective and, if known, the objective's 95 % confidence
    interval.
    """

    planned: PlannedJob
    metrics: dict[str, float]
    name: str  # of the objective
    value: float

    @property
    def interval(self) -> tuple[float, float] | None:
        low, high = (self.metrics.get(f"{self.name}_{end}") for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    def format_objective(self) -> str:
        metric = find_metric(self.name)
        text = f"{metric.label} {metric.format_value(self.value)}"
        if self.interval is not None:
            low, high = (_format_without_percent(metric, end) for end in self.interval)
            text += f" [{low}, {high}]"
        text = f"{text} {metric.unit}".rstrip()
        if self.interval is not None and "n" in self.metrics:
            text += f" of {self.metrics['n']:,.0f} questions"
        return text


def make_best_trial_notes(
    best: ScoredTrial, trials: Sequence[ScoredTrial], keys: Collection[str], maximize: bool
) -> list[Note]:
    """Return a warning if other trials' confidence intervals overlap with the best trial's
    interval.

    The notes include a command for a further test.
    """
    rivals = _find_trials_with_overlapping_interval(best, trials)
    if not rivals:
        return []
    sign = 1 if maximize else -1
    next_best = max(rivals, key=lambda rival: sign * rival.value)
    return [
        note("overlaps", rivals=len(rivals)),
        *_suggest_rerun_on_unused_questions(best.planned, next_best.planned, keys),
    ]


def _find_trials_with_overlapping_interval(
    best: ScoredTrial, trials: Sequence[ScoredTrial]
) -> list[ScoredTrial]:
    """Return the trials whose intervals overlap with the best trial's interval, one per job."""
    if best.interval is None:
        return []
    low, high = best.interval
    rivals: dict[str, ScoredTrial] = {}
    for trial in trials:
        if trial.interval is not None and trial.planned.job_id != best.planned.job_id:
            other_low, other_high = trial.interval
            if other_low <= high and low <= other_high:
                rivals.setdefault(trial.planned.job_id, trial)
    return [*rivals.values()]


def _suggest_rerun_on_unused_questions(
    best: PlannedJob, next_best: PlannedJob, keys: Collection[str]
) -> list[Note]:
    if best.config is None or SELECTIONS & {*keys}:
        return []
    task = best.config.task.questions_config
    if task is None or task.only is not None:
        return []
    there = count_available_questions(task)  # from the search's first one on; None: without an end
    asked = task.limit if there is None else min(task.limit or there, there)
    if asked is None or there == asked:
        return [note("all_asked")]
    limit = asked if there is None else min(asked, there - asked)
    others = [
        text for text in best.overrides if _override_key(text) not in {*keys, *best.unnamed, *SELECTIONS}
    ]
    kept = [
        text
        for text in best.overrides
        if _override_key(text) in SELECTIONS - {"task.offset", "task.limit"} - {*keys}
    ]
    overrides = [*others, *kept, f"task.offset={task.offset + asked}", f"task.limit={limit}"]
    command = shlex.join(
        ["runner", "-m", *overrides, *_build_two_trial_sweep_overrides(best, next_best, keys)]
    )
    store = stores.create_store_from_config(best.config)
    verdict = [] if store is None else [_format_comparison_command(store, best, next_best, keys)]
    return [note("check_of_best", questions=limit, commands=[command, *verdict])]


def _build_two_trial_sweep_overrides(
    best: PlannedJob, next_best: PlannedJob, keys: Collection[str]
) -> list[str]:
    of_trials = [_searched_values(trial, keys) for trial in (best, next_best)]
    if len(of_trials[0]) == 1:
        [key] = of_trials[0]
        return [f"{key}={','.join(values[key] for values in of_trials)}"]
    cases = (
        "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}" for values in of_trials
    )
    return [f"hydra.sweeper.cases=[{', '.join(cases)}]"]


def _format_comparison_command(
    store: stores.Store, best: PlannedJob, next_best: PlannedJob, keys: Collection[str]
) -> str:
    """Return the command that compares the two best jobs, with the second-best as baseline."""
    values = _searched_values(best, keys)
    differing = [
        f"{key}={value}" for key, value in _searched_values(next_best, keys).items() if values[key] != value
    ]
    baseline = shlex.join(["--baseline", ",".join(differing)])
    return f"{stores.build_compare_command(store)} --grid last {baseline}"


def _searched_values(trial: PlannedJob, keys: Collection[str]) -> dict[str, str]:
    return {
        _override_key(text): text.partition("=")[2] for text in trial.overrides if _override_key(text) in keys
    }


def _override_key(override: str) -> str:
    return override.partition("=")[0]


def _format_without_percent(metric: Metric, value: float) -> str:
    return metric.format_value(value).removesuffix("%")
