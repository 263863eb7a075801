"""Which rows are undecided only because the comparisons of a table share their error: their
intervals, which hold for a row alone, say more than their verdicts."""

from __future__ import annotations

from runner_base import few
from runner_compare.data import Table
from runner_compare.section import Section
from runner_compare.wording import MAX_NAMES, name_of


class SharedError(Section):
    """Rows whose own test would decide, and Holm's does not."""

    def sentences(self, table: Table) -> list[str]:
        """Name these rows, if there are any."""
        rows = [row for row in table.compared if row.effect and row.effect.is_decided_alone]
        if not rows:
            return []
        count = max(row.effect.comparisons for row in rows if row.effect)
        names = few([name_of(row, table.keys) for row in rows], MAX_NAMES)
        return [
            f"{names}: decided if compared alone, undecided among the {count} comparisons of this table, which share "
            "5 % (Holm); the intervals are those of a comparison alone"
        ]


SECTION = SharedError()
