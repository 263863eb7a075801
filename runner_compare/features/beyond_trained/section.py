"""Warns about runs whose texts exceed the context length that the model and its RoPE setting support."""

from __future__ import annotations

from runner_base import join_first_names
from runner_compare.model.data import Table
from runner_compare.render.labels import MAX_NAMES, format_row_name
from runner_compare.section import Section

MADE_FOR = "made_for_positions"  # the metric of jobs that may exceed it
LONGEST = "longest_text_tokens"  # jobs of earlier versions lack it
PLAIN = ("native", "rope_2d")  # choices that scale nothing


class BeyondTrained(Section):
    """Report section about runs with texts that are longer than the supported context length."""

    def sentences(self, table: Table) -> list[str]:
        """Return one warning per context length, with the names of the runs whose texts exceed it."""
        names: dict[str, list[str]] = {}
        for row in table.rows:
            limit = row.run.metrics.get(MADE_FOR)
            longest = row.run.metrics.get(LONGEST)
            if limit is not None and (longest is None or longest > limit):
                rope = row.run.params.get("rope.name", "native")
                made = "trained" if rope in PLAIN else "scaled"
                exceed = "may exceed" if longest is None else "exceed"
                remark = f"texts {exceed} the context length of {limit:,.0f} tokens ({made}, rope={rope})"
                names.setdefault(remark, []).append(format_row_name(row, table.keys))
        return [f"{join_first_names(rows, MAX_NAMES)}: {remark}" for remark, rows in names.items()]


SECTION = BeyondTrained()
