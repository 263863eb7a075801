"""Report section with the recovery of each candidate, per task and pooled (--card)."""

from __future__ import annotations

from typing import Any

from runner_compare.features.recovery.compute import ComparisonRecovery
from runner_compare.features.recovery.render.text import build_recovery_part, recovery_record
from runner_compare.model.comparison import Comparison, ReportPart
from runner_compare.section import Section


class RecoverySection(Section):
    """Report section with recoveries."""

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        table = comparison.get_section_data(ComparisonRecovery).table
        return [] if table is None else [build_recovery_part(table)]

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        table = comparison.get_section_data(ComparisonRecovery).table
        return {} if table is None else {"recovery": recovery_record(table)}


SECTION = RecoverySection()
