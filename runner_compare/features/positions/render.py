"""Loss and divergence by position as tables and pictures: a line for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner_base import Column, Picture, Use
from runner_compare.metrics import ENDS
from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.model.data import ABSENT, Run, Table, TableRow
from runner_compare.render.columns import naming_of
from runner_compare.render.labels import short_names
from runner_compare.render.lines import MAX_LINES, draw_line, name_lines
from runner_compare.render.pictures import finish_pane
from runner_compare.render.token_figures import figure_in_words
from runner_compare.statistics.positions import CELL, positions_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LETTERS = 36  # of a value in a name
WORDS = {LOSS: "loss, nats a token", KL: "KL to the reference, nats a token"}
PlacesOf = Callable[[Mapping[str, float]], Sequence[int]]
AXIS = "tokens before, in bins of powers of two"
TITLE = "by position: how many tokens stand before, with 95 % intervals over texts"


def loss_picture(table: Table, stem: str, cell: str, places_of: PlacesOf, axis_words: str) -> list[Picture]:
    """Return the picture of a table with rows whose figures have two such places or more; none for
    another."""
    rows = [row for row in table.rows if len(places_of(row.run.metrics)) > 1]
    if not rows:
        return []
    title = (
        f"loss over the {axis_words}; bars: 95 % intervals over texts, each by itself; hollow: the baseline"
    )
    return [Picture(stem, title, lambda: draw(rows, table.keys, cell, places_of, axis_words))]


def draw(
    rows: Sequence[TableRow], keys: Sequence[str], cell: str, places_of: PlacesOf, axis_words: str
) -> Figure:
    """Draw a pane for the loss and, if a row has it, one for the divergence."""
    from matplotlib.figure import Figure

    members = rows[:MAX_LINES]
    metrics = [
        key
        for key in WORDS
        if any(
            f"{key}{cell}{position}" in row.run.metrics
            for row in members
            for position in places_of(row.run.metrics)
        )
    ]
    figure = Figure(figsize=(8.6, 0.4 + 3.6 * len(metrics)), layout="constrained")
    names = short_names(members, keys, MAX_LETTERS) if keys else [""] * len(members)
    panes = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    for pane, key in zip(panes, metrics, strict=True):
        for number, (row, name) in enumerate(zip(members, names, strict=True)):
            _line(
                pane,
                row,
                number,
                name,
                [f"{key}{{}}{cell}{position}" for position in places_of(row.run.metrics)],
            )
        pane.set_ylabel(WORDS[key])
        finish_pane(pane)
    places = sorted({position for row in members for position in places_of(row.run.metrics)})
    panes[-1].set_xscale("log", base=2)
    panes[-1].set_xticks(places, [f"{position:,}" for position in places])
    panes[-1].minorticks_off()
    panes[-1].set_xlabel(axis_words)
    cut = f"the first {len(members)} of {len(rows)} rows" if len(members) < len(rows) else ""
    panes[0].set_title(cut, loc="left")
    if len(members) > 1:
        name_lines(panes[0])
    return figure


def _line(pane: Axes, row: TableRow, number: int, name: str, keys: Sequence[str]) -> None:
    """Draw the values of a row with their intervals; `keys` have a hole for the ends."""
    metrics = row.run.metrics
    points = [(int(key.rpartition("_")[2]), [metrics.get(key.format(end)) for end in ENDS]) for key in keys]
    known = [(x, middle, low, high) for x, (middle, low, high) in points if middle is not None]
    draw_line(pane, number, name, known, row.is_baseline)


def _cell(run: Run, key: str, form: str, first: int) -> str:
    return figure_in_words(run.metrics, key, form.format, "", f"/{CELL}{first}") or ABSENT


def range_of(first: int) -> str:
    """Return the positions of a bin in words."""
    return f"{first:,}" if first == 1 else f"{first:,}–{2 * first - 1:,}"


def position_table(figures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a job's table by position: a line for each bin."""
    lines: list[dict[str, Any]] = []
    for first in positions_of(figures):
        cell = f"/{CELL}{first}"
        line: dict[str, Any] = {
            "tokens before": range_of(first),
            "texts": int(figures[f"n{cell}"]),
            "tokens": int(figures[f"scored_tokens{cell}"]),
            "loss, nats/token": figure_in_words(figures, LOSS, "{:.4f}".format, "", cell),
        }
        if f"{KL}{cell}" in figures:
            line["KL, nats/token"] = figure_in_words(figures, KL, "{:.3g}".format, "", cell)
        lines.append(line)
    return lines


def position_tables(table: Table) -> dict[str, list[Column]]:
    """Return the table of positions: a line for each bin of a row."""
    lines = [(row, first) for row in table.rows for first in positions_of(row.run.metrics)]
    if not lines:
        return {}
    columns = naming_of(table, [row for row, _ in lines])
    columns.append(Column("tokens before", [range_of(first) for _, first in lines], use=Use.setting))
    texts = [f"{row.run.metrics[f'n/{CELL}{first}']:,.0f}" for row, first in lines]
    columns.append(Column("texts", texts, use=Use.more))
    for head, key, form in (("loss\nnats/token", LOSS, "{:.4f}"), ("KL\nnats/token", KL, "{:.3g}")):
        cells = [_cell(row.run, key, form, first) for row, first in lines]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=Use.result))
    return {TITLE: columns}
