"""Implements hydra.sweeper.prune=true, which stops trials that are significantly worse than the
best.

Each running trial is compared with the best trial's job (task.early_stop_vs). A trial that
is significantly worse is pruned. Any other trial that may be the best becomes a job without
a comparison, which reuses its answers. Only such jobs serve as baseline and have valid
scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from runner.grid.plan import PlannedJob
from runner_base import ConfigError, Record

if TYPE_CHECKING:
    from optuna.study import Study

KEY = "hydra.sweeper.prune=true"
JOB, COMPARISONS = "task.early_stop_vs", "task.early_stop_comparisons"
KEYS = frozenset((JOB, COMPARISONS))  # set by the search
AGAINST = "compared_with"  # an attribute of a trial: the job, and how many comparisons share the 5 %
FULL = "full_job"  # an attribute of a complete trial: its job without a comparison


class TrialOutcome(StrEnum):
    """How a finished trial counts in the search: complete, pruned, or to be repeated without pruning."""

    complete = "complete"  # its score counts
    pruned = "pruned"  # it is worse than the one that it was compared with
    in_full = "in full"  # it may be the best: its job runs on without a comparison


def require_prunable_search(
    first_job: PlannedJob, varied_keys: Iterable[str], optimization_direction: str
) -> None:
    """Raise ConfigError if a search does not support pruning, which compares trials while they run."""
    task = first_job.config.task if first_job.config is not None else None
    questions = task.questions_config if task is not None else None
    can_compare = questions is not None and questions.comparisons_key and questions.baseline_name is None
    if task is not None and not can_compare:
        need = "pruning needs task=gsm8k, and sets task.early_stop_vs itself. Omit task.early_stop_vs"
        raise ConfigError(f"task={task.name}: {need}", key=KEY, code="conflict")
    if optimization_direction != "maximize":
        raise ConfigError(
            f"hydra.sweeper.direction={optimization_direction}: pruning works only for direction=maximize",
            key=KEY,
            code="conflict",
        )
    if asked := [key for key in varied_keys if key.partition(".")[0] == "task"]:
        need = "pruning needs the same prompts in all trials, because it compares single questions"
        raise ConfigError(f"{asked[0]} is searched over: {need}", key=KEY, code="conflict")


def choose_trial_baseline(study: Study, num_trials: int) -> dict[str, Any] | None:
    """Return the best trial's job, which new trials are compared with, and the number of comparisons.

    Returns None before any trial is complete.
    """
    full = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if FULL in trial.user_attrs and trial.value is not None
    ]
    if not full:
        return None
    best = max(full, key=lambda trial: (trial.value or 0.0, -trial.number))
    return {"job": best.user_attrs[FULL], "comparisons": max(num_trials - 1, 1)}


def build_early_stopping_overrides(baseline: dict[str, Any] | None) -> list[str]:
    """Return overrides that make a trial's job compare itself with the baseline job while it runs."""
    if baseline is None:
        return []
    return [f"{JOB}={baseline['job']}", f"{COMPARISONS}={baseline['comparisons']}"]


def decide_trial_outcome(record: Record, best_score: float) -> TrialOutcome:
    metrics = record.result.metrics
    if "early_stop_decision" not in metrics:
        return TrialOutcome.complete
    if metrics["questions_left"] and metrics["early_stop_decision"] < 0:
        return TrialOutcome.pruned
    may_be_best = metrics["questions_left"] or metrics["accuracy"] > best_score
    return TrialOutcome.in_full if may_be_best else TrialOutcome.complete
