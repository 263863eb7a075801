"""Decides rules whose margin applies to the questions of all tasks together (`pool` in a policy)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner_compare.features.pooled.compute import build_pooled_tables
from runner_compare.model.data import Table, TableRow
from runner_compare.reader import Reader
from runner_compare.release_gate.verdicts import Rule
from runner_compare.statistics.pooling import PoolingWeights

POINTS = "points"  # the unit of pooled accuracies


def has_pooled_measure(rule: Rule, unit_is_points: bool) -> bool:
    """Return whether the rule has a margin for accuracies, or for likelihoods."""
    return "accuracy" in rule.margins if unit_is_points else len({*rule.margins} - {"accuracy"}) > 0


def list_pooled_rows(
    rule: Rule, tables: Sequence[Table], names: Mapping[str, str], reader: Reader
) -> Iterator[tuple[str, TableRow]]:
    """Yield each candidate's name with its pooled row. A row without a decision has a note.

    `names` are the candidates' names by run id.
    """
    for table in build_pooled_tables(tables, PoolingWeights.questions, (), dict(rule.margins), reader):
        for row in table.rows if has_pooled_measure(rule, table.unit == POINTS) else []:
            run_ids = [cell.run.run_id for cell in table.cells[row.run.job_id] if cell is not None]
            yield names[run_ids[0]], row
