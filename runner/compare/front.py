"""Which configurations nobody has to consider: another is as good in accuracy, memory and speed, and better in one."""

from __future__ import annotations

import operator

from runner.compare.data import Row, Table
from runner.core.stats import pareto_front

MEMORY = ("cuda_peak_mib", "peak_rss_mib")  # the first one that all rows have
SPEED = ("decode_tok_per_s",)


def mark_front(table: Table) -> None:
    """Mark the rows on the front, and for each other row one that dominates it; by the measured values as they are."""
    rows = [row for row in table.rows if row.scored and row.metrics["n"]]
    axes = [next((name for name in names if _all_have(rows, name)), "") for names in (MEMORY, SPEED)]
    table.axes = [name for name in axes if name]
    if len(rows) < 2 or not table.axes:
        table.axes = []
        return
    for panel in dict.fromkeys(row.panel for row in rows):
        members = [row for row in rows if row.panel == panel]
        points = [goodness(row, table.axes) for row in members]
        front = pareto_front(points)
        best = [(point, row.job_id) for row, point, on_front in zip(members, points, front, strict=True) if on_front]
        for row, point, on_front in zip(members, points, front, strict=True):
            row.on_front = on_front
            if not on_front:
                row.dominated_by = next(job for other, job in best if all(map(operator.ge, other, point)))


def goodness(row: Row, axes: list[str]) -> tuple[float, ...]:
    """Return a row's point, each number better the larger it is."""
    accuracy = row.metrics["correct"] / row.metrics["n"]
    return accuracy, *(-row.metrics[name] if name in MEMORY else row.metrics[name] for name in axes)


def _all_have(rows: list[Row], name: str) -> bool:
    return all(name in row.metrics for row in rows)
