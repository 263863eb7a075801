"""What the best trial of a search is worth: whose intervals overlap with its own, and the check on
other questions.

The best of several scores is also the luckiest of them. As long as its interval overlaps with
another trial's, the scores do not show which of the two is better, and only questions that the
search has not asked can tell how good it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runner.grid.plan import PlannedJob
from runner.grid.question_plan import questions_there
from runner.tracking import stores
from runner_base.notes import Note, note
from runner_compare import Metric, described

# Trials that differ in one of these ask other questions: no offset leaves all of them behind
SELECTIONS = frozenset(
    f"task.{key}" for key in ("data", "subset", "split", "offset", "limit", "shuffle_seed", "only", "without")
)


@dataclass(frozen=True)
class Scored:
    """A trial that has asked everything, with its objective and, where there is one, the 95 %
    interval of that."""

    planned: PlannedJob
    metrics: dict[str, float]
    name: str  # of the objective
    value: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval; None if the objective has none, such as a speed."""
        low, high = (self.metrics.get(f"{self.name}_{end}") for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    def result(self) -> str:
        """Return the objective with its interval and the number of questions."""
        metric = described(self.name)
        text = f"{metric.label} {metric.write(self.value)}"
        if self.interval is not None:
            low, high = (_bare(metric, end) for end in self.interval)
            text += f" [{low}, {high}]"
        text = f"{text} {metric.unit}".rstrip()
        if self.interval is not None and "n" in self.metrics:
            text += f" of n = {self.metrics['n']:.0f}"
        return text


def doubts(best: Scored, scored: Sequence[Scored], keys: Collection[str], maximize: bool) -> list[Note]:
    """Return what the best of the trials does not show; nothing where its interval is apart from
    all others."""
    rivals = _overlapping(best, scored)
    if not rivals:
        return []
    sign = 1 if maximize else -1
    next_best = max(rivals, key=lambda rival: sign * rival.value)
    return [note("overlaps", rivals=len(rivals)), *_check(best.planned, next_best.planned, keys)]


def _overlapping(best: Scored, scored: Sequence[Scored]) -> list[Scored]:
    """Return the trials, each job once, whose intervals overlap with that of the best one."""
    if best.interval is None:
        return []
    low, high = best.interval
    rivals: dict[str, Scored] = {}
    for trial in scored:
        if trial.interval is not None and trial.planned.job_id != best.planned.job_id:
            other_low, other_high = trial.interval
            if other_low <= high and low <= other_high:
                rivals.setdefault(trial.planned.job_id, trial)
    return [*rivals.values()]


def _check(best: PlannedJob, next_best: PlannedJob, keys: Collection[str]) -> list[Note]:
    """Return the command that runs two trials on questions that the search has not asked, as far as
    there are any."""
    if best.config is None or SELECTIONS & {*keys}:
        return []
    task = best.config.task.of_questions
    if task is None or task.only is not None:
        return []
    there = questions_there(task)  # from the search's first one on; None: without an end
    asked = task.limit if there is None else min(task.limit or there, there)
    if asked is None or there == asked:
        return [note("all_asked")]
    limit = asked if there is None else min(asked, there - asked)
    others = [text for text in best.overrides if _key(text) not in {*keys, *best.unnamed, *SELECTIONS}]
    kept = [
        text for text in best.overrides if _key(text) in SELECTIONS - {"task.offset", "task.limit"} - {*keys}
    ]
    overrides = [*others, *kept, f"task.offset={task.offset + asked}", f"task.limit={limit}"]
    command = shlex.join(["runner", "-m", *overrides, *_both(best, next_best, keys)])
    store = stores.store_of(best.config)
    verdict = [] if store is None else [_comparison(store, best, next_best, keys)]
    return [note("check_of_best", questions=limit, commands=[command, *verdict])]


def _both(best: PlannedJob, next_best: PlannedJob, keys: Collection[str]) -> list[str]:
    """Return the override under which a grid has the searched values of two trials, and no other
    combination."""
    of_trials = [_values(trial, keys) for trial in (best, next_best)]
    if len(of_trials[0]) == 1:
        [key] = of_trials[0]
        return [f"{key}={','.join(values[key] for values in of_trials)}"]
    cases = (
        "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}" for values in of_trials
    )
    return [f"hydra.sweeper.cases=[{', '.join(cases)}]"]


def _comparison(store: stores.Store, best: PlannedJob, next_best: PlannedJob, keys: Collection[str]) -> str:
    """Return the command that compares the two jobs of the check, the next best being the
    baseline."""
    values = _values(best, keys)
    differing = [f"{key}={value}" for key, value in _values(next_best, keys).items() if values[key] != value]
    baseline = shlex.join(["--baseline", ",".join(differing)])
    return f"{stores.compare_command(store)} --grid last {baseline}"


def _values(trial: PlannedJob, keys: Collection[str]) -> dict[str, str]:
    """Return the searched values of a trial."""
    return {_key(text): text.partition("=")[2] for text in trial.overrides if _key(text) in keys}


def _key(text: str) -> str:
    return text.partition("=")[0]


def _bare(metric: Metric, value: float) -> str:
    return metric.write(value).removesuffix("%")
