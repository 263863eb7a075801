"""The comparison drawn: accuracies with their intervals, and the front of accuracy, memory and speed."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from runner.compare.data import Finding, Row, Table
from runner.compare.wording import name_of
from runner.core.console import plain
from runner.core.drawing import BAD, FRONT, GOOD, INK, LINE, MUTED, PAPER, Picture
from runner.core.metrics import METRICS

if TYPE_CHECKING:  # its import takes a second, which only --save and --log need
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

LABEL_OFFSETS = (6, -14, 17, -25, 28, -36)  # points above the middle of a dot; the first that is free is taken
MOST_ROWS, MOST_PANELS, MOST_LABELS = 60, 4, 14


@dataclass
class Drawn:
    """A picture that a job has drawn itself, an SVG file."""

    title: str
    file: bytes

    def inline(self) -> str:
        """Return it as an image of a page: whatever stands in the file, an image runs and fetches nothing."""
        data = base64.b64encode(self.file).decode()
        return f'<img alt="{escape(self.title)}" src="data:image/svg+xml;base64,{data}">'


def draw(table: Table) -> list[Picture]:
    """Return the pictures of a table: none without verdicts, no front where memory and speed were not measured."""
    if not table.scored:
        return []
    pictures = [Picture("accuracy", "accuracy with 95 % intervals; hollow: the baseline", lambda: accuracy(table))]
    if table.axes:
        title = (
            "filled: on the front, nothing there dominates it beyond noise; bars: 95 % intervals of accuracy, and "
            "along the other axes what is noise (two rows differ where these do not touch); line: the front of the two "
            "that a pane shows, as measured"
        )
        pictures.insert(0, Picture("pareto", title, lambda: pareto(table)))
    return pictures


def accuracy(table: Table) -> Figure:
    """Draw each row's accuracy with its interval and, next to it, the difference to its baseline."""
    from matplotlib.figure import Figure

    scored = [(row, interval) for row in table.rows if (interval := row.run.interval)]
    shown = scored[:MOST_ROWS]
    rows = [row for row, _ in shown]
    compared = any(row.comparison for row in rows)
    figure = Figure(figsize=(8.6 if compared else 5.6, 1.1 + 0.27 * len(rows)), layout="constrained")
    panes = figure.subplots(1, 1 + compared, sharey=True, squeeze=False)[0]
    cut = f" (the first {len(rows)} of {len(scored)} rows)" * (len(rows) < len(scored))
    panes[0].set_title(f"accuracy, %{cut}", loc="left")
    for place, (row, interval) in enumerate(shown):
        middle, low, high = (100 * value for value in interval)
        _dot(panes[0], place, middle, low, high, INK, hollow=row.is_baseline)
        it = row.comparison
        if it is not None:
            colour = {Finding.better: GOOD, Finding.worse: BAD}.get(it.finding, MUTED)
            middle, low, high = (100 * value for value in (it.difference, it.difference_low, it.difference_high))
            _dot(panes[1], place, middle, low, high, colour)
    panes[0].set_yticks(range(len(rows)), [_words(row, table.keys) for row in rows], color=INK)
    panes[0].set_ylim(len(rows) - 0.4, -0.6)
    if compared:
        panes[1].set_title("difference to the baseline, points", loc="left")
        panes[1].axvline(0, color=MUTED, linewidth=1)
    for pane in panes:
        pane.grid(axis="x", color=LINE, linewidth=0.6)
        pane.set_axisbelow(True)
        pane.tick_params(axis="y", length=0)
    return figure


def _words(row: Row, keys: list[str]) -> str:
    return _literal(name_of(row, keys))


def _literal(text: str) -> str:
    """Return a text that matplotlib draws as it is: no formula between two $."""
    return plain(text).replace("$", r"\$")


def _dot(pane: Axes, y: float, middle: float, low: float, high: float, colour: str, hollow: bool = False) -> None:
    pane.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    pane.plot([middle], [y], marker="o", markersize=5.5, color=colour, markerfacecolor=PAPER if hollow else colour)


def pareto(table: Table) -> Figure:
    """Draw accuracy over memory and over speed, a line of panes for each set of questions."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = [row for row in table.rows if row.on_front is not None]
    every = list(dict.fromkeys(row.panel for row in rows))
    panels = every[:MOST_PANELS]
    figure = Figure(
        figsize=(4.4 * len(table.axes), 0.4 + 2.7 * len(panels)), layout=ConstrainedLayoutEngine(hspace=0.08)
    )
    panes = figure.subplots(len(panels), len(table.axes), squeeze=False, sharey="row")
    labels: list[list[Annotation]] = []
    for line, panel in zip(panes, panels, strict=True):
        members = [row for row in rows if row.panel == panel]
        asked = {part.partition("=")[0] for part in panel}
        for pane, axis in zip(line, table.axes, strict=True):
            labels.append(_front_pane(pane, members, axis, [key for key in table.keys if key not in asked]))
            pane.set_xlabel(METRICS[axis].axis)
        line[0].set_ylabel("accuracy, %")
        line[0].set_title(_literal(", ".join(panel)), loc="left")
    if len(panels) < len(every):
        figure.suptitle(f"the first {len(panels)} of {len(every)} sets of questions", color=MUTED, fontsize=9)
    figure.draw_without_rendering()  # only then is it known where texts lie
    for of_pane in labels:
        _part(of_pane)
    return figure


def _part(labels: list[Annotation]) -> None:
    """Move labels up or down until they lie on no other one, as far as there is room."""
    placed: list[Any] = []
    for label in sorted(labels, key=lambda it: it.xy):
        for offset in LABEL_OFFSETS:
            label.xyann = (0, offset)
            box = label.get_window_extent()
            if not any(box.overlaps(other) for other in placed):
                break
        placed.append(box)


def _bars(pane: Axes, x: float, y: float, row: Row, axis: str, colour: str) -> None:
    """Draw between what a point may stand by noise alone."""
    assert row.run.interval is not None
    low, high = (100 * end for end in row.run.interval[1:])
    for xs, ys in (([x, x], [low, high]), ([row.standing[axis].low, row.standing[axis].high], [y, y])):
        pane.plot(xs, ys, color=colour, linewidth=1, alpha=0.45, solid_capstyle="butt", zorder=1)


def _front_pane(pane: Axes, rows: list[Row], axis: str, keys: list[str]) -> list[Annotation]:
    """Draw one pane: every row, filled where it is on the front of all axes, and the front of these two as a line.

    Returns the labels, which may still lie on one another.
    """
    labels = []
    sign = METRICS[axis].better.value
    points = [(row.standing[axis].value, 100 * row.run.interval[0], row) for row in rows if row.run.interval]
    for x, y, row in points:
        colour = FRONT if row.on_front else MUTED
        _bars(pane, x, y, row, axis, colour)
        pane.plot([x], [y], marker="o", markersize=6.5, color=colour, markerfacecolor=colour if row.on_front else PAPER)
        if len(rows) <= MOST_LABELS or row.on_front or row.is_baseline:
            place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": colour}
            labels.append(pane.annotate(_words(row, keys), (x, y), (0, LABEL_OFFSETS[0]), **place))
    front: list[tuple[float, float]] = []
    for x, y, _ in sorted(points, key=lambda point: (-sign * point[0], -point[1])):  # from the best x on
        if not front or y > front[-1][1]:
            front.append((x, y))
    pane.step(*zip(*front, strict=True), where="post", color=FRONT, linewidth=1, alpha=0.6, zorder=0)
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    pane.margins(0.16, 0.2)
    return labels
