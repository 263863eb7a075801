"""Which tables are about one score: the metrics of the same task, which share one error of 5 %.

A model that loses nothing is found worse in one of three metrics more often than in a given one. So
where files bring several metrics of a task (f1, exact_match, the length of an answer), each has an
equal part of the 5 %; `--metric` chooses one, which then has all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.model.data import Run

LIKELIHOOD = ":likelihood"  # the end of the name of a table


def score_of(run: Run) -> str:
    """Return the task of a run without its metric, which the name of a table of numbers ends
    with."""
    return run.task.removesuffix(f":{run.number}" if run.number else LIKELIHOOD)


def metrics_of_scores(runs: Sequence[Run]) -> dict[str, int]:
    """Return for each table how many tables its score has, a metric each."""
    tables: dict[str, set[str]] = {}
    for run in runs:
        tables.setdefault(score_of(run), set()).add(run.task)
    return {run.task: len(tables[score_of(run)]) for run in runs}
