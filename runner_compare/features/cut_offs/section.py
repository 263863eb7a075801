"""What answers that were cut off leave open: the accuracy without a limit, and in which rows
answers were cut off."""

from __future__ import annotations

from runner_base import Column, few
from runner_compare.features.cut_offs.render import LEGEND, bounds_of
from runner_compare.model.data import Table
from runner_compare.render.answers import cut_off_words
from runner_compare.render.labels import MAX_NAMES, name_of
from runner_compare.section import Section, Slot


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


SECTION = CutOffs()
