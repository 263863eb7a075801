"""Plots the comparison: accuracies with intervals, and Pareto fronts of accuracy, memory and speed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from runner_base import Picture, escape_control_characters
from runner_base.drawing import BAD, FRONT, GOOD, INK, LINE, MUTED, PAPER
from runner_compare.features.front.compute import FrontData
from runner_compare.metrics import find_metric
from runner_compare.model.data import AxisValue, Table, TableRow
from runner_compare.render.effects import interval_level
from runner_compare.render.labels import shorten_row_names
from runner_compare.render.lines import escape_mathtext
from runner_compare.render.margins import UNDECIDED
from runner_compare.render.quantities import ACCURACIES, effect_unit, find_quantity
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
    """SVG plot that one or several jobs have drawn."""

    names: list[str]
    file: bytes

    @property
    def title(self) -> str:
        return " · ".join(self.names)

    def to_html_image_tag(self) -> str:
        """Return the plot as an HTML image, which cannot run scripts or load external files."""
        data = base64.b64encode(self.file).decode()
        return f'<img alt="{escape(self.title)}" src="data:image/svg+xml;base64,{data}">'


def create_table_pictures(table: Table) -> list[Picture]:
    if not table.has_accuracies:
        return (
            [
                Picture(
                    "differences", _format_forest_title(table), lambda: draw_accuracies_and_differences(table)
                )
            ]
            if _compared_rows(table)
            else []
        )
    title = "accuracy with 95 % intervals. Hollow markers show the baseline"
    if _compared_rows(table):
        title += f". {_format_forest_title(table)}"
    pictures = [Picture("accuracy", title, lambda: draw_accuracies_and_differences(table))]
    if table.get_section_data(FrontData).axes:
        title = (
            "filled: on the front, no row there dominates it beyond noise; bars: 95 % intervals of accuracy and of "
            "speed over runs, and the range of noise of memory; line: the front of the two axes of a pane, as measured"
        )
        pictures.insert(0, Picture("pareto", title, lambda: draw_pareto_front(table)))
    return pictures


def draw_accuracies_and_differences(table: Table) -> Figure:
    from matplotlib.figure import Figure

    every = (
        [row for row in table.rows if row.run.accuracy_interval]
        if table.has_accuracies
        else _compared_rows(table)
    )
    rows = every[:MAX_ROWS]
    compared = any(row.effect for row in rows)
    names = wrap_row_names(rows, table.keys)
    figure = Figure(figsize=_compute_picture_size(names, 8.6 if compared else 5.6), layout="constrained")
    panes = figure.subplots(1, table.has_accuracies + compared, sharey=True, squeeze=False)[0]
    cut = f"the first {len(rows)} of {len(every)} rows" if len(rows) < len(every) else ""
    if table.has_accuracies:
        panes[0].set_title("accuracy, %" + (f" ({cut})" if cut else ""), loc="left")
        for index, row in enumerate(rows):
            assert row.run.accuracy_interval is not None
            middle, low, high = (100 * value for value in row.run.accuracy_interval)
            _draw_dot(panes[0], index, middle, low, high, INK, hollow=row.is_baseline)
    else:
        panes[0].set_title(cut, loc="right", color=MUTED)
    if compared:
        _draw_forest_plot(panes[-1], rows)
    panes[0].set_yticks(range(len(names)), list(names.values()), color=INK)
    panes[0].set_ylim(len(names) - 0.4, -0.6)
    for pane in panes:
        pane.grid(axis="x", color=LINE, linewidth=0.6)
        pane.set_axisbelow(True)
        pane.tick_params(axis="y", length=0)
    return figure


def _compared_rows(table: Table) -> list[TableRow]:
    return [row for row in table.rows if row.effect]


def _format_forest_title(table: Table) -> str:
    has_margin = any(row.effect and row.effect.margin is not None for row in table.rows)
    within = (
        "; dashed: the margin, to the right of it a loss is acceptable; blue: no loss above it"
        if has_margin
        else ""
    )
    effects = [effect for row in table.rows if (effect := row.effect)]
    level = interval_level(effects)
    kind = f"{level} " if level else ""
    return (
        f"Difference from the baseline with {kind}intervals: better (green), "
        f"worse (red), {UNDECIDED} (grey){within}"
    )


def _draw_forest_plot(pane: Axes, rows: list[TableRow]) -> None:
    effects = [(index, effect) for index, row in enumerate(rows) if (effect := row.effect)]
    factor = 100 if find_quantity(effects[0][1]) is ACCURACIES else 1
    for index, effect in effects:
        middle, low, high = (factor * value for value in (effect.value, *effect.simultaneous_interval))
        _draw_dot(pane, index, middle, low, high, choose_verdict_colour(effect))
    pane.axvline(0, color=MUTED, linewidth=1)
    for margin in {effect.margin for _, effect in effects if effect.margin is not None}:
        pane.axvline(-factor * margin, color=FRONT, linewidth=1, linestyle=(0, (4, 3)))
    pane.set_title(f"difference to the baseline, {effect_unit(effects[0][1])}", loc="left")


def choose_verdict_colour(decision: Decision) -> str:
    if decision.verdict in (MarginVerdict.as_good, MarginVerdict.worse_but_within):
        return FRONT
    return {Finding.better: GOOD, Finding.worse: BAD}.get(decision.finding, MUTED)


def wrap_row_names(rows: Sequence[TableRow], keys: Sequence[str]) -> dict[str, str]:
    names = shorten_row_names(rows, keys, MAX_LETTERS)
    lines = (wrap(escape_control_characters(name), MAX_LINE, break_on_hyphens=False) for name in names)
    return {
        row.run.run_id: escape_mathtext("\n".join(of_row)) for row, of_row in zip(rows, lines, strict=True)
    }


def max_line_length(names: Mapping[str, str]) -> int:
    return max((len(line) for name in names.values() for line in name.split("\n")), default=0)


def _compute_picture_size(names: Mapping[str, str], width: float) -> tuple[float, float]:
    lines = max((name.count("\n") + 1 for name in names.values()), default=1)
    height = 1.1 + (0.27 + LINE_HEIGHT * (lines - 1)) * len(names)
    return width + LETTER_WIDTH * max(0, max_line_length(names) - USUAL_LETTERS), height


def draw_legend_and_number_runs(pane: Axes, name_by_run: dict[str, str]) -> dict[str, str]:
    lines = [f"{number}  {name.replace(chr(10), ' ')}" for number, name in enumerate(name_by_run.values(), 1)]
    beside: dict[str, Any] = {"transform": pane.transAxes, "va": "top", "fontsize": 8, "color": INK}
    pane.text(1.02, 1, "\n".join(lines), **beside)
    return {run_id: str(number) for number, run_id in enumerate(name_by_run, 1)}


def _draw_dot(
    pane: Axes, y: float, middle: float, low: float, high: float, colour: str, hollow: bool = False
) -> None:
    pane.plot([low, high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    pane.plot(
        [middle], [y], marker="o", markersize=5.5, color=colour, markerfacecolor=PAPER if hollow else colour
    )


def draw_pareto_front(table: Table) -> Figure:
    """Draw accuracy by memory and accuracy by speed.

    Each set of questions is one row of the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = [row for row in table.rows if row.on_front is not None]
    all_panels = list(dict.fromkeys(row.panel for row in rows))
    panels = all_panels[:MAX_PANELS]
    names = wrap_row_names(rows, table.keys)
    axes = table.get_section_data(FrontData).axes
    beside = LETTER_WIDTH * (max_line_length(names) + 6) if max_line_length(names) > LONGEST_AT_DOT else 0
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
        names = wrap_row_names(shown, [key for key in table.keys if key not in panel_keys])
        if max_line_length(names) > LONGEST_AT_DOT:
            names = draw_legend_and_number_runs(line[-1], names)
        for pane, axis in zip(line, axes, strict=True):
            labels.append(_draw_pareto_front_pane(pane, members, axis, names))
            pane.set_xlabel(find_metric(axis).axis_label)
        line[0].set_ylabel("accuracy, %")
        line[0].set_title(escape_mathtext(", ".join(panel)), loc="left")
    if len(panels) < len(all_panels):
        figure.suptitle(
            f"only the first {len(panels)} of {len(all_panels)} question sets", color=MUTED, fontsize=9
        )
    move_overlapping_labels_apart(figure, labels)
    return figure


def move_overlapping_labels_apart(figure: Figure, labels: Sequence[Sequence[Annotation]]) -> None:
    """Move labels up or down to remove overlaps within each plot as far as possible."""
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


def draw_accuracy_point_with_intervals(
    pane: Axes,
    x: float,
    y: float,
    row: TableRow,
    x_interval: Estimate | AxisValue | None,
    colour: str,
    is_hollow: bool,
) -> None:
    assert row.run.accuracy_interval is not None
    bars = [([x, x], [100 * end for end in row.run.accuracy_interval[1:]])]
    bars += [([x_interval.low, x_interval.high], [y, y])] if x_interval else []
    for xs, ys in bars:
        pane.plot(xs, ys, color=colour, linewidth=1, alpha=0.45, solid_capstyle="butt", zorder=1)
    pane.plot(
        [x], [y], marker="o", markersize=6.5, color=colour, markerfacecolor=PAPER if is_hollow else colour
    )


def _draw_pareto_front_pane(
    pane: Axes, rows: list[TableRow], axis: str, names: Mapping[str, str]
) -> list[Annotation]:
    """Draw accuracy against one other metric, with the Pareto front as a line.

    Markers of rows on the overall Pareto front are filled. Returns the labels, which may overlap.
    """
    sign = find_metric(axis).better.value
    points = [
        (row.standing[axis].value, 100 * row.run.accuracy_interval[0], row)
        for row in rows
        if row.run.accuracy_interval
    ]
    for x, y, row in points:
        draw_accuracy_point_with_intervals(
            pane, x, y, row, row.standing[axis], FRONT if row.on_front else MUTED, not row.on_front
        )
    shown = [point for point in points if point[2].run.run_id in names]
    labels = label_points(pane, shown, names, [(x, y) for x, y, row in points if row.on_front])
    draw_pareto_front_and_grid(pane, find_pareto_front([(x, y) for x, y, _ in points], sign))
    return labels


def label_points(
    pane: Axes,
    points: list[tuple[float, float, TableRow]],
    names: Mapping[str, str],
    front: list[tuple[float, float]],
) -> list[Annotation]:
    """Write row names next to their points. Rows at the same point share a label."""
    at: dict[tuple[float, float], list[str]] = {}
    for x, y, row in points:
        at.setdefault((x, y), []).append(names[row.run.run_id])
    # above bars
    box = {"boxstyle": "square,pad=0.1", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.8}
    return [
        annotate_point(pane, ", ".join(labels), point, FRONT if point in front else MUTED, bbox=box)
        for point, labels in at.items()
    ]


def annotate_point(
    pane: Axes, text: str, point: tuple[float, float], colour: str, **options: Any
) -> Annotation:
    usual: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": colour}
    return pane.annotate(text, point, (0, LABEL_OFFSETS[0]), **usual | options)


def find_pareto_front(points: list[tuple[float, float]], x_direction: int) -> list[tuple[float, float]]:
    """Return the Pareto-optimal points, ordered from the best x to the worst x.

    `x_direction` is 1 if a higher x is better, else -1.
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-x_direction * point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def draw_pareto_front_and_grid(pane: Axes, front: Sequence[tuple[float, float]] = ()) -> None:
    if front:
        pane.step(*zip(*front, strict=True), where="post", color=FRONT, linewidth=1, alpha=0.6, zorder=0)
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    pane.margins(0.16, 0.2)
