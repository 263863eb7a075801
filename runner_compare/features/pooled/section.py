"""Report section with one verdict per configuration, pooled over several tasks (--pool)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_compare.features.pooled.compute import PooledTable
from runner_compare.features.pooled.render import (
    build_pooled_csv_lines,
    build_pooled_report_part,
    pooled_record,
)
from runner_compare.model.comparison import Comparison, ReportPart
from runner_compare.section import Section


@dataclass
class ComparisonPooledTables:
    """Stores the pooled tables of a comparison."""

    tables: list[PooledTable] = field(default_factory=list)


class PooledSection(Section):
    """Report section with verdicts pooled over several tasks."""

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        return [
            build_pooled_report_part(table)
            for table in comparison.get_section_data(ComparisonPooledTables).tables
        ]

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        tables = comparison.get_section_data(ComparisonPooledTables).tables
        return {"pooled": [pooled_record(table) for table in tables]} if tables else {}

    def csv_lines(self, comparison: Comparison) -> list[dict[str, Any]]:
        return [
            line
            for table in comparison.get_section_data(ComparisonPooledTables).tables
            for line in build_pooled_csv_lines(table)
        ]


SECTION = PooledSection()
