"""The verdicts over several tasks, with --pool: one for each setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_compare.features.cut_offs.compute import flat_ends
from runner_compare.features.pooled.compute import PooledTable, pooled_columns
from runner_compare.model.comparison import Comparison, Grid, Shown, said_of_row
from runner_compare.render.quantities import REPEATS
from runner_compare.render.row_records import effect_records
from runner_compare.section import Section


@dataclass
class PooledVerdicts:
    """The pooled tables: one for accuracies, one for likelihoods."""

    tables: list[PooledTable] = field(default_factory=list)


class Pooled(Section):
    """Verdicts over several tasks."""

    def parts(self, comparison: Comparison) -> list[Shown]:
        return [_shown(table) for table in comparison.of(PooledVerdicts).tables]

    def record_across(self, comparison: Comparison) -> dict[str, Any]:
        """Return the pooled tables as plain data."""
        tables = comparison.of(PooledVerdicts).tables
        return {"pooled": [pooled_record(table) for table in tables]} if tables else {}

    def lines(self, comparison: Comparison) -> list[dict[str, Any]]:
        """Return a line for each setting."""
        return [line for table in comparison.of(PooledVerdicts).tables for line in _lines(table)]


def _shown(table: PooledTable) -> Shown:
    said = [sentence for row in table.rows for sentence in said_of_row(row)]
    return Shown(table.title, [Grid(pooled_columns(table))], said, table.legend)


def _lines(table: PooledTable) -> list[dict[str, Any]]:
    lines = []
    for row in table.rows:
        effects = [value for value in effect_records(row).values() if isinstance(value, dict)]
        effect = effects[0] if effects else {}
        ends = flat_ends(effect.pop("without_limit", {}))
        sets = {"pooled_over": "; ".join(table.sets), "weights": table.weights.value, "note": row.note}
        lines.append({"task": "pooled", **row.config, **sets, **effect, **ends})
    return lines


def pooled_record(table: PooledTable) -> dict[str, Any]:
    """Return a pooled table as plain data: for each setting the difference on each set, and the
    pooled one."""
    return {
        "unit": table.unit,
        "weights": table.weights.value,
        "baseline": table.baseline,
        "setting_keys": table.keys,
        "sets": table.sets,
        "rows": [
            {
                "config": row.config,
                "differences": {
                    name: {
                        "job_id": cell.run.job_id,
                        "difference": cell.effect.value,
                        "finding": cell.effect.finding,
                    }
                    for name, cell in zip(table.sets, table.cells[row.run.job_id], strict=True)
                    if cell is not None and cell.effect is not None
                },
                **{key: value for key, value in effect_records(row).items() if key != REPEATS.record_key},
                "note": row.note,
            }
            for row in table.rows
        ],
        "sentences": table.sentences,
    }


SECTION = Pooled()
