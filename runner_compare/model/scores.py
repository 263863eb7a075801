"""Groups the tables that report different metrics of the same score.

With three metrics, a model without loss is found worse more often than with one. So several
metrics of a task (f1, exact_match, the length of an answer) each get an equal part of the 5
% error; `--metric` chooses one, which then has all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner_compare.model.data import Run

LIKELIHOOD = ":likelihood"  # the end of the name of a table


def get_task_without_metric(run: Run) -> str:
    """Return the name of a run's table, without the metric at the end."""
    return run.task.removesuffix(f":{run.number}" if run.number else LIKELIHOOD)


def count_tables_with_same_score(runs: Sequence[Run]) -> dict[str, int]:
    """Return, for each table, the number of tables that report a metric of the same score."""
    tables: dict[str, set[str]] = {}
    for run in runs:
        tables.setdefault(get_task_without_metric(run), set()).add(run.task)
    return {run.task: len(tables[get_task_without_metric(run)]) for run in runs}
