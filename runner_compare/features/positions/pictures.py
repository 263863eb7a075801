"""Draws loss, and divergence where it is known, over contexts or positions: a line for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from runner_base import Picture
from runner_base.drawing import BAD, FRONT, GOOD, INK, MUTED, PAPER
from runner_compare.metrics import ENDS
from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.model.data import Table, TableRow
from runner_compare.render.labels import short_names
from runner_compare.render.pictures import finish_pane, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS, LINES, MARKERS = ((INK, FRONT, BAD, GOOD, MUTED), ("-", (0, (4, 2))), ("o", "s", "^", "D", "v"))
MAX_ROWS = len(COLOURS) * len(LINES)
MAX_LETTERS = 36  # of a value in a name
WORDS = {LOSS: "loss, nats a token", KL: "KL to the reference, nats a token"}
PlacesOf = Callable[[Mapping[str, float]], Sequence[int]]


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

    members = rows[:MAX_ROWS]
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
        panes[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return figure


def _line(pane: Axes, row: TableRow, number: int, name: str, keys: Sequence[str]) -> None:
    """Draw the values of a row with their intervals; `keys` have a hole for the ends."""
    metrics = row.run.metrics
    points = [(int(key.rpartition("_")[2]), [metrics.get(key.format(end)) for end in ENDS]) for key in keys]
    known = [(x, middle, low, high) for x, (middle, low, high) in points if middle is not None]
    colour = COLOURS[number % len(COLOURS)]
    pane.plot(
        [x for x, *_ in known],
        [middle for _, middle, *_ in known],
        color=colour,
        linestyle=LINES[number // len(COLOURS)],
        linewidth=1.2,
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        markerfacecolor=PAPER if row.is_baseline else colour,
        label=literal(name),
    )
    for x, _, low, high in known:
        if low is not None and high is not None:
            pane.plot(
                [x, x], [low, high], color=colour, linewidth=1, alpha=0.45, solid_capstyle="butt", zorder=1
            )
