"""Which rows may read texts beyond the positions that the model and its RoPE setting are made
for."""

from __future__ import annotations

from runner_base import few
from runner_compare.model.data import Table
from runner_compare.render.labels import MAX_NAMES, name_of
from runner_compare.section import Section

MADE_FOR = "made_for_positions"  # the metric that only such jobs have
PLAIN = ("native", "rope_2d")  # choices that scale nothing


class BeyondTrained(Section):
    """Rows with rope.beyond_trained."""

    def sentences(self, table: Table) -> list[str]:
        """Name a row as what it is beyond its positions; rows with the same words share a
        sentence."""
        names: dict[str, list[str]] = {}
        for row in table.rows:
            limit = row.run.metrics.get(MADE_FOR)
            if limit is not None:
                rope = row.run.params.get("rope.name", "native")
                made = "trained" if rope in PLAIN else "scaled"
                remark = f"{rope}, beyond its {made} {limit:,.0f} positions where texts are longer"
                names.setdefault(remark, []).append(name_of(row, table.keys))
        return [f"{few(rows, MAX_NAMES)}: {remark}" for remark, rows in names.items()]


SECTION = BeyondTrained()
