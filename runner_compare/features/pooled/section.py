"""The verdicts over several tasks, with --pool: one for each setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_compare.features.pooled.compute import PooledTable
from runner_compare.features.pooled.render import pooled_lines, pooled_record, pooled_shown
from runner_compare.model.comparison import Comparison, Shown
from runner_compare.section import Section


@dataclass
class PooledVerdicts:
    """The pooled tables: one for accuracies, one for likelihoods."""

    tables: list[PooledTable] = field(default_factory=list)


class Pooled(Section):
    """Verdicts over several tasks."""

    def parts(self, comparison: Comparison) -> list[Shown]:
        return [pooled_shown(table) for table in comparison.of(PooledVerdicts).tables]

    def record_across(self, comparison: Comparison) -> dict[str, Any]:
        """Return the pooled tables as plain data."""
        tables = comparison.of(PooledVerdicts).tables
        return {"pooled": [pooled_record(table) for table in tables]} if tables else {}

    def lines(self, comparison: Comparison) -> list[dict[str, Any]]:
        return [line for table in comparison.of(PooledVerdicts).tables for line in pooled_lines(table)]


SECTION = Pooled()
