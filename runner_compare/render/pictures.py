"""Draws the comparison: accuracies with intervals, and the front of accuracy, memory and speed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from runner_base import Picture, plain
from runner_base.drawing import BAD, FRONT, GOOD, INK, LINE, MUTED, PAPER
from runner_compare.features.front.compute import Front
from runner_compare.metrics import described
from runner_compare.model.data import Standing, Table, TableRow
from runner_compare.render.effects import interval_level
from runner_compare.render.labels import short_names
from runner_compare.render.lines import literal
from runner_compare.render.quantities import ACCURACIES, quantity, unit_of
from runner_compare.statistics import Decision, Finding, MarginVerdict
from runner_compare.statistics.token_costs import Estimate

if TYPE_CHECKING:  # its import takes a second, and only --save and --log need it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

MAX_LETTERS, MAX_LINE = 36, 44  # of a value, and of a line of a name
LONGEST_AT_DOT = 30  # letters of a name: longer ones are in a list beside the pane
# names up to so many letters fit; the others in inches
USUAL_LETTERS, LETTER_WIDTH, LINE_HEIGHT = 30, 0.07, 0.15
# in points above the middle of a dot; the first free one is used
LABEL_OFFSETS = (6, -14, 17, -25, 28, -36)
MAX_ROWS, MAX_PANELS, MAX_LABELS = 60, 4, 14


@dataclass
class JobPicture:
    """An SVG picture that jobs have drawn themselves, the same for all of these jobs."""

    names: list[str]
    file: bytes

    @property
    def title(self) -> str:
        return " · ".join(self.names)

    def inline(self) -> str:
        """Return it as an image of a page: whatever the file contains, an image runs and fetches
        nothing."""
        data = base64.b64encode(self.file).decode()
        return f'<img alt="{escape(self.title)}" src="data:image/svg+xml;base64,{data}">'


def draw(table: Table) -> list[Picture]:
    """Return the pictures of a table: none without verdicts, no front if memory and speed were not
    measured."""
    if not table.scored:
        return (
            [Picture("differences", _forest_title(table), lambda: by_row(table))] if _compared(table) else []
        )
    title = "accuracy with 95 % intervals; hollow: the baseline"
    if _compared(table):
        title += f". {_forest_title(table)}"
    pictures = [Picture("accuracy", title, lambda: by_row(table))]
    if table.of(Front).axes:
        title = (
            "filled: on the front, no row there dominates it beyond noise; bars: 95 % intervals of accuracy and of "
            "speed over runs, and the range of noise of memory; line: the front of the two axes of a pane, as measured"
        )
        pictures.insert(0, Picture("pareto", title, lambda: pareto(table)))
    return pictures


def by_row(table: Table) -> Figure:
    """Draw each row's accuracy with its interval, if these are measured, and the difference to its
    baseline."""
    from matplotlib.figure import Figure

    every = [row for row in table.rows if row.run.interval] if table.scored else _compared(table)
    rows = every[:MAX_ROWS]
    compared = any(row.effect for row in rows)
    names = names_of(rows, table.keys)
    figure = Figure(figsize=_size(names, 8.6 if compared else 5.6), layout="constrained")
    panes = figure.subplots(1, table.scored + compared, sharey=True, squeeze=False)[0]
    cut = f"the first {len(rows)} of {len(every)} rows" if len(rows) < len(every) else ""
    if table.scored:
        panes[0].set_title("accuracy, %" + (f" ({cut})" if cut else ""), loc="left")
        for index, row in enumerate(rows):
            assert row.run.interval is not None
            middle, low, high = (100 * value for value in row.run.interval)
            _dot(panes[0], index, middle, low, high, INK, hollow=row.is_baseline)
    else:
        panes[0].set_title(cut, loc="right", color=MUTED)
    if compared:
        _forest(panes[-1], rows)
    panes[0].set_yticks(range(len(names)), list(names.values()), color=INK)
    panes[0].set_ylim(len(names) - 0.4, -0.6)
    for pane in panes:
        pane.grid(axis="x", color=LINE, linewidth=0.6)
        pane.set_axisbelow(True)
        pane.tick_params(axis="y", length=0)
    return figure


def _compared(table: Table) -> list[TableRow]:
    return [row for row in table.rows if row.effect]


def _forest_title(table: Table) -> str:
    """Explain the lines and colours of the differences."""
    has_margin = any(row.effect and row.effect.margin is not None for row in table.rows)
    within = (
        "; dashed: the margin, to the right of it a loss is acceptable; blue: as good within it"
        if has_margin
        else ""
    )
    effects = [effect for row in table.rows if (effect := row.effect)]
    level = interval_level(effects)
    kind = f"{level} " if level else ""
    return f"Difference to the baseline with {kind}intervals: green is better, red is worse, grey is undecided{within}"


def _forest(pane: Axes, rows: list[TableRow]) -> None:
    """Draw the differences of rows with their intervals, the line of no difference and the
    margin."""
    effects = [(index, effect) for index, row in enumerate(rows) if (effect := row.effect)]
    factor = 100 if quantity(effects[0][1]) is ACCURACIES else 1
    for index, effect in effects:
        middle, low, high = (factor * value for value in (effect.value, *effect.simultaneous))
        _dot(pane, index, middle, low, high, _colour(effect))
    pane.axvline(0, color=MUTED, linewidth=1)
    for margin in {effect.margin for _, effect in effects if effect.margin is not None}:
        pane.axvline(-factor * margin, color=FRONT, linewidth=1, linestyle=(0, (4, 3)))
    pane.set_title(f"difference to the baseline, {unit_of(effects[0][1])}", loc="left")


def _colour(decision: Decision) -> str:
    if decision.verdict in (MarginVerdict.as_good, MarginVerdict.worse_but_within):
        return FRONT
    return {Finding.better: GOOD, Finding.worse: BAD}.get(decision.finding, MUTED)


def names_of(rows: Sequence[TableRow], keys: Sequence[str]) -> dict[str, str]:
    """Return the names of rows by the ids of their runs, in lines that a picture has room for."""
    names = short_names(rows, keys, MAX_LETTERS)
    lines = (wrap(plain(name), MAX_LINE, break_on_hyphens=False) for name in names)
    return {row.run.run_id: literal("\n".join(of_row)) for row, of_row in zip(rows, lines, strict=True)}


def longest(names: Mapping[str, str]) -> int:
    """Return the letters of the longest line of names."""
    return max((len(line) for name in names.values() for line in name.split("\n")), default=0)


def _size(names: Mapping[str, str], width: float) -> tuple[float, float]:
    """Return the size of a picture with a row for each name, in inches; long names make it wider
    and higher."""
    lines = max((name.count("\n") + 1 for name in names.values()), default=1)
    height = 1.1 + (0.27 + LINE_HEIGHT * (lines - 1)) * len(names)
    return width + LETTER_WIDTH * max(0, longest(names) - USUAL_LETTERS), height


def numbered(pane: Axes, names: dict[str, str]) -> dict[str, str]:
    """Write a list of names beside a pane; return the numbers that stand for them in it."""
    lines = [f"{number}  {name.replace(chr(10), ' ')}" for number, name in enumerate(names.values(), 1)]
    beside: dict[str, Any] = {"transform": pane.transAxes, "va": "top", "fontsize": 8, "color": INK}
    pane.text(1.02, 1, "\n".join(lines), **beside)
    return {run_id: str(number) for number, run_id in enumerate(names, 1)}


def _dot(
    pane: Axes, y: float, middle: float, low: float, high: float, colour: str, hollow: bool = False
) -> None:
    pane.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    pane.plot(
        [middle], [y], marker="o", markersize=5.5, color=colour, markerfacecolor=PAPER if hollow else colour
    )


def pareto(table: Table) -> Figure:
    """Draw accuracy over memory and over speed, with a line of panes for each set of questions."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = [row for row in table.rows if row.on_front is not None]
    all_panels = list(dict.fromkeys(row.panel for row in rows))
    panels = all_panels[:MAX_PANELS]
    names = names_of(rows, table.keys)
    axes = table.of(Front).axes
    beside = LETTER_WIDTH * (longest(names) + 6) if longest(names) > LONGEST_AT_DOT else 0
    figure = Figure(
        figsize=(4.4 * max(2, len(axes)) + beside, 0.4 + 2.7 * len(panels)),
        layout=ConstrainedLayoutEngine(hspace=0.08),
    )
    panes = figure.subplots(len(panels), len(axes), squeeze=False, sharey="row")
    labels: list[list[Annotation]] = []
    for line, panel in zip(panes, panels, strict=True):
        members = [row for row in rows if row.panel == panel]
        panel_keys = {part.partition("=")[0] for part in panel}
        shown = [
            member
            for member in members
            if len(members) <= MAX_LABELS or member.on_front or member.is_baseline
        ]
        names = names_of(shown, [key for key in table.keys if key not in panel_keys])
        if longest(names) > LONGEST_AT_DOT:
            names = numbered(line[-1], names)
        for pane, axis in zip(line, axes, strict=True):
            labels.append(_front_pane(pane, members, axis, names))
            pane.set_xlabel(described(axis).axis)
        line[0].set_ylabel("accuracy, %")
        line[0].set_title(literal(", ".join(panel)), loc="left")
    if len(panels) < len(all_panels):
        figure.suptitle(
            f"the first {len(panels)} of {len(all_panels)} sets of questions", color=MUTED, fontsize=9
        )
    separate(figure, labels)
    return figure


def separate(figure: Figure, labels: Sequence[Sequence[Annotation]]) -> None:
    """Move the labels of each pane up or down until none overlaps another, as far as there is
    room."""
    figure.draw_without_rendering()  # only now are the positions of texts known
    for of_pane in labels:
        placed: list[Any] = []
        for label in sorted(of_pane, key=lambda annotation: annotation.xy):
            for offset in LABEL_OFFSETS:
                label.xyann = (0, offset)
                box = label.get_window_extent()
                if not any(box.overlaps(other) for other in placed):
                    break
            placed.append(box)


def draw_point(
    pane: Axes,
    x: float,
    y: float,
    row: TableRow,
    ends: Estimate | Standing | None,
    colour: str,
    is_hollow: bool,
) -> None:
    """Draw a point of a row, and as bars how far noise alone may move it: in accuracy, and between
    the ends of x."""
    assert row.run.interval is not None
    bars = [([x, x], [100 * end for end in row.run.interval[1:]])]
    bars += [([ends.low, ends.high], [y, y])] if ends else []
    for xs, ys in bars:
        pane.plot(xs, ys, color=colour, linewidth=1, alpha=0.45, solid_capstyle="butt", zorder=1)
    pane.plot(
        [x], [y], marker="o", markersize=6.5, color=colour, markerfacecolor=PAPER if is_hollow else colour
    )


def _front_pane(pane: Axes, rows: list[TableRow], axis: str, names: Mapping[str, str]) -> list[Annotation]:
    """Draw one pane: every row, filled where it is on the front of all axes, and the front of these
    two as a line.

    Returns the labels, which may still overlap.
    """
    sign = described(axis).better.value
    points = [(row.standing[axis].value, 100 * row.run.interval[0], row) for row in rows if row.run.interval]
    for x, y, row in points:
        draw_point(pane, x, y, row, row.standing[axis], FRONT if row.on_front else MUTED, not row.on_front)
    shown = [point for point in points if point[2].run.run_id in names]
    labels = name_points(pane, shown, names, [(x, y) for x, y, row in points if row.on_front])
    finish_pane(pane, front_of([(x, y) for x, y, _ in points], sign))
    return labels


def name_points(
    pane: Axes,
    points: list[tuple[float, float, TableRow]],
    names: Mapping[str, str],
    front: list[tuple[float, float]],
) -> list[Annotation]:
    """Write the names of points, by the ids of their runs; rows at the same point share a label."""
    at: dict[tuple[float, float], list[str]] = {}
    for x, y, row in points:
        at.setdefault((x, y), []).append(names[row.run.run_id])
    # above bars
    box = {"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.8}
    return [
        annotated(pane, ", ".join(labels), point, FRONT if point in front else MUTED, bbox=box)
        for point, labels in at.items()
    ]


def annotated(pane: Axes, text: str, point: tuple[float, float], colour: str, **how: Any) -> Annotation:
    """Write the name of a point above it."""
    usual: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": colour}
    return pane.annotate(text, point, (0, LABEL_OFFSETS[0]), **usual | how)


def front_of(points: list[tuple[float, float]], sign: int) -> list[tuple[float, float]]:
    """Return the points that no other one beats in both, from the best x on; sign: the direction of
    better x."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-sign * point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def finish_pane(pane: Axes, front: Sequence[tuple[float, float]] = ()) -> None:
    """Draw the line of a front, if there is one, the grid and the margins."""
    if front:
        pane.step(*zip(*front, strict=True), where="post", color=FRONT, linewidth=1, alpha=0.6, zorder=0)
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    pane.margins(0.16, 0.2)
