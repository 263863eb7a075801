"""Plots each model's KL divergence from the reference against the size of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner_base import Picture
from runner_base.drawing import INK, PAPER
from runner_compare.metrics import ENDS
from runner_compare.model.data import Table, TableRow
from runner_compare.render.labels import format_row_name
from runner_compare.render.lines import escape_mathtext
from runner_compare.render.pictures import (
    LONGEST_AT_DOT,
    MAX_LABELS,
    MAX_PANELS,
    annotate_point,
    draw_legend_and_number_runs,
    draw_pareto_front_and_grid,
    max_line_length,
    move_overlapping_labels_apart,
    wrap_row_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

KL, WEIGHTS = "kl_nats_per_token", "weight_mib"
BESIDE = "  "  # between a bar and the name beside it


@dataclass
class KlPoint:
    """Point of the plot: the size of a model and its KL divergence from the reference."""

    name: str
    size_mib: float
    kl: float
    low: float | None
    high: float | None
    colour: str = INK
    is_filled: bool = True


def create_divergence_pictures(table: Table) -> list[Picture]:
    """Return the plot of KL divergence by model size. Empty without a KL divergence."""
    rows = [row for row in table.rows if KL in row.run.metrics and row.run.metrics.get(WEIGHTS)]
    drawn = [row for row in rows if row.run.metrics[KL] > 0]
    if not drawn:
        return []
    title = "mean KL divergence from the reference per token, with 95 % intervals, by size of the weights"
    zeros = [row for row in rows if row not in drawn]
    if zeros:
        names = ", ".join(format_row_name(row, table.keys) or row.run.job_id for row in zeros)
        title += f"; not drawn, as the axis is logarithmic: {names} (KL 0)"
    return [Picture("divergence", title, lambda: draw_kl_over_weight_size(drawn, table.keys))]


def draw_kl_over_weight_size(rows: Sequence[TableRow], keys: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    all_panels = list(dict.fromkeys(row.panel for row in rows))
    panels = all_panels[:MAX_PANELS]
    figure = Figure(figsize=(8.8, 0.4 + 4.0 * len(panels)), layout="constrained")
    labels = []
    for pane, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        members = [row for row in rows if row.panel == panel]
        panel_keys = {part.partition("=")[0] for part in panel}
        names = wrap_row_names(members, [key for key in keys if key not in panel_keys])
        # they would cover each other
        if len(members) > MAX_LABELS or max_line_length(names) > LONGEST_AT_DOT:
            names = draw_legend_and_number_runs(pane, names)
        points = []
        for row in members:
            kl, low, high = (row.run.metrics.get(f"{KL}{end}") for end in ENDS)
            points.append(KlPoint(names[row.run.run_id], row.run.metrics[WEIGHTS], kl or 0.0, low, high))
        labels.append(draw_kl_points(pane, points, "weights, MiB"))
        cut = (
            f" (the first {len(panels)} of {len(all_panels)} sets of texts)"
            if len(panels) < len(all_panels)
            else ""
        )
        pane.set_title(escape_mathtext(", ".join(panel) + cut * (panel == panels[-1])), loc="left")
    move_overlapping_labels_apart(figure, labels)
    return figure


def draw_kl_points(pane: Axes, points: Sequence[KlPoint], size_label: str) -> list[Annotation]:
    """Draw KL divergence (logarithmic) by size.

    Returns the labels, which may overlap.
    """
    labels: list[Annotation] = []
    sizes = [point.size_mib for point in points]
    middle = (min(sizes) + max(sizes)) / 2 if len({*sizes}) > 1 else max(sizes, default=0.0)
    for point in points:
        ends = [max(point.low or point.kl, point.kl / 100), point.high or point.kl]
        pane.plot([point.size_mib] * 2, ends, color=point.colour, linewidth=1.2, alpha=0.6)
        fill_colour = point.colour if point.is_filled else PAPER
        pane.plot(
            [point.size_mib],
            [point.kl],
            marker="o",
            markersize=6.5,
            color=point.colour,
            markerfacecolor=fill_colour,
        )
        labels.append(_annotate_point_name(pane, point, is_in_right_half=point.size_mib > middle))
    pane.set_yscale("log")
    pane.set_xlabel(size_label)
    pane.set_ylabel("KL divergence from the reference, nats per token")
    draw_pareto_front_and_grid(pane)
    return labels


def _annotate_point_name(axes: Axes, point: KlPoint, is_in_right_half: bool) -> Annotation:
    """Write a point's name next to its interval, on the side that faces the center of the plot."""
    name = f"{point.name}{BESIDE}" if is_in_right_half else f"{BESIDE}{point.name}"
    side = "right" if is_in_right_half else "left"
    return annotate_point(axes, name, (point.size_mib, point.kl), point.colour, ha=side)
