"""What answers that were cut off leave open: the accuracy without a limit, and in which rows
answers were cut off."""

from __future__ import annotations

from runner_base import Column, few
from runner_compare.model.data import Table, TableRow
from runner_compare.render.labels import MAX_NAMES, name_of
from runner_compare.section import Section, Slot
from runner_compare.statistics.floor_effects import cut_off_words

LEGEND = (
    "Without limit: if answers that were cut off are wrong … right (those of the baseline the reverse), with "
    "an interval around both ends. Only what both ends show is a finding: Holm is that of the larger p."
)


class CutOffs(Section):
    """Answers that were cut off."""

    def columns(self, table: Table) -> dict[Slot, list[Column]]:
        """Return the accuracies without a limit of tokens, if any answer was cut off."""
        if not any(row.run.bounds for row in table.rows):
            return {}
        return {
            Slot.accuracy: [Column("accuracy\nwithout limit", list(map(bounds_of, table.rows)), drop_order=1)]
        }

    def sentences(self, table: Table) -> list[str]:
        """Say in which rows answers were cut off by the limit of tokens; rows with the same words
        share a sentence."""
        names: dict[str, list[str]] = {}
        for row in table.rows:
            names.setdefault(cut_off_words(row.run.metrics, row.run.params), []).append(
                name_of(row, table.keys)
            )
        return [f"{few(names[text], MAX_NAMES)}: {text}" for text in names if text]

    def legend(self, table: Table, explain: bool) -> str:
        """Return what the differences without a limit are."""
        has_ends = any(effect.ends for row in table.compared for effect in row.effects)
        return LEGEND if has_ends else ""


def bounds_of(row: TableRow) -> str:
    """Return a row's accuracy without a limit of tokens: if all that was cut off is wrong … right,
    and its interval."""
    bounds = row.run.bounds
    if bounds is None:
        return ""
    at_worst, at_best, low, high = (100 * share for share in bounds)
    return f"{at_worst:.1f} … {at_best:.1f} % [{low:.1f}, {high:.1f}]"


SECTION = CutOffs()
