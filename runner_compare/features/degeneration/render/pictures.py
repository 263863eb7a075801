"""Draws which share of the answers has no loop yet, by number of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runner_base import Picture
from runner_base.drawing import LINE
from runner_compare.features.degeneration.compute import (
    LoopStart,
    TableDegeneration,
    compute_loop_free_survival_curve,
)
from runner_compare.model.data import Table, TableRow
from runner_compare.render.labels import shorten_row_names
from runner_compare.render.lines import COLOURS, LINES, MAX_LINES, add_line_legend, escape_mathtext

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "loop_starts"  # of the file
TITLE = "answers without a loop, by number of words"
MAX_LETTERS = 36  # of a value in a name


def create_repetition_loop_pictures(table: Table) -> list[Picture]:
    """Return the plot of answers without a loop. [] if no answer has a loop."""
    starts = table.get_section_data(TableDegeneration).loop_starts
    if not any(start.has_loop for of_run in starts.values() for start in of_run):
        return []
    rows = [row for row in table.rows if starts.get(row.run.run_id)]
    return [Picture(NAME, TITLE, lambda: draw_loop_free_curves(rows[:MAX_LINES], table.keys, starts))]


def draw_loop_free_curves(
    rows: Sequence[TableRow], keys: Sequence[str], starts: Mapping[str, Sequence[LoopStart]]
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.0), layout="constrained")
    pane = figure.subplots()
    names = shorten_row_names(rows, keys, MAX_LETTERS) if keys else [""] * len(rows)
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        curve = compute_loop_free_survival_curve(starts[row.run.run_id])
        pane.step(
            [num_words for num_words, _ in curve],
            [100 * share for _, share in curve],
            where="post",
            color=COLOURS[number % len(COLOURS)],
            linestyle=LINES[number // len(COLOURS)],
            linewidth=2.2 if row.baseline is None else 1.4,
            label=escape_mathtext(name),
        )
    pane.set_ylim(0, 103)
    pane.set_xlim(left=0)
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    pane.set_ylabel("answers without a loop, %")
    pane.set_xlabel("words of the answer")
    if len(rows) > 1:
        add_line_legend(pane)
    return figure
