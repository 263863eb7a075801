"""hydra.sweeper.prune=true: a trial stops once it is decided that it is worse than the best one so
far.

Each trial is compared with the job of the best trial while it runs (task.early_stop_vs). One that
is decided worse has been pruned. Any other that could be the best becomes a job without a
comparison, which takes over the answers: only these jobs are compared with, and have scores that
count.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from runner.grid.plan import PlannedJob
from runner_base import ConfigError, Record
from runner_compare.statistics import Side

if TYPE_CHECKING:
    from optuna.study import Study

KEY = "hydra.sweeper.prune=true"
JOB, COMPARISONS = "task.early_stop_vs", "task.early_stop_comparisons"
KEYS = frozenset((JOB, COMPARISONS))  # set by the search
AGAINST = "compared_with"  # an attribute of a trial: the job, and how many comparisons share the 5 %
FULL = "full_job"  # an attribute of a complete trial: its job without a comparison


class Fate(StrEnum):
    """What becomes of a trial whose job has ended."""

    complete = "complete"  # its score counts
    pruned = "pruned"  # it is worse than the one that it was compared with
    in_full = "in full"  # it may be the best: its job runs on without a comparison


def check_search(first: PlannedJob, keys: Iterable[str], direction: str) -> None:
    """Reject a search whose trials cannot be compared while they run."""
    task = first.config.task if first.config is not None else None
    questions = task.of_questions if task is not None else None
    can_compare = questions is not None and questions.comparisons_key and questions.compared_with is None
    if task is not None and not can_compare:
        need = "it needs task=gsm8k without task.early_stop_vs, which it sets itself"
        raise ConfigError(f"task={task.name}: {need}", key=KEY, code="conflict")
    if direction != "maximize":
        raise ConfigError(
            f"hydra.sweeper.direction={direction}: only a search for the highest accuracy prunes",
            key=KEY,
            code="conflict",
        )
    if asked := [key for key in keys if key.partition(".")[0] == "task"]:
        need = "trials that ask in different ways cannot be compared question by question"
        raise ConfigError(f"{asked[0]} is searched over: {need}", key=KEY, code="conflict")


def compared_with(study: Study, wanted: int) -> dict[str, Any] | None:
    """Return what a new trial is compared with; None before the first trial is complete."""
    full = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if FULL in trial.user_attrs and trial.value is not None
    ]
    if not full:
        return None
    best = max(full, key=lambda trial: (trial.value or 0.0, -trial.number))
    return {"job": best.user_attrs[FULL], "comparisons": max(wanted - 1, 1)}


def overrides_of(against: dict[str, Any] | None) -> list[str]:
    """Return the overrides by which a job is compared."""
    if against is None:
        return []
    return [f"{JOB}={against['job']}", f"{COMPARISONS}={against['comparisons']}"]


def fate_of(record: Record, best: float) -> Fate:
    """Return what becomes of a trial; `best` is the best score so far."""
    metrics, verdict = record.result.metrics, record.result.facts.get("early_stop_verdict")
    if verdict is None:
        return Fate.complete
    if metrics["questions_left"] and verdict.startswith(Side.worse):
        return Fate.pruned
    may_be_best = metrics["questions_left"] or metrics["accuracy"] > best
    return Fate.in_full if may_be_best else Fate.complete
