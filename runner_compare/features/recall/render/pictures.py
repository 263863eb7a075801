"""Creates plots of recall: curves over text length, and heat maps of length and depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_base.drawing import BAD, GOOD, LINE, MUTED, PAPER
from runner_base.svg import escape_text
from runner_compare.features.recall.compute import RecallFindings
from runner_compare.model.data import TableRow
from runner_compare.render.labels import shorten_row_names
from runner_compare.render.lines import MAX_LINES, add_line_legend, draw_line_with_intervals, escape_mathtext

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, MAPS = "recall_curve", "recall_map"  # the names of the files
MAX_MAPS, MAPS_A_LINE = 12, 4
# From nothing to all: light to dark, of one hue, so that it can be read without colours, too
LIGHT, DARK = (0.93, 0.95, 0.98), (0.05, 0.22, 0.46)
ON_LIGHT, ON_DARK = "#111418", "#f5f8fc"  # text on a cell: the same on light and dark pages
MAX_LETTERS = 36  # of a value in a name


@dataclass(frozen=True)
class RecallPlotData:
    """Recall of one configuration in percent, by text length and by depth."""

    name: str
    lengths: Sequence[int]
    recall: Sequence[tuple[float, float, float]]  # at each length, with its interval
    depths: Sequence[float] = ()
    cells: Sequence[Sequence[float | None]] = ()  # by depth, then by length
    # what it reaches at least, and what it does not reach
    effective: tuple[int, int | None] | None = None
    is_baseline: bool = False


def create_job_recall_pictures(plot_data: dict[str, Any]) -> list[Picture]:
    drawn = RecallPlotData(**plot_data)
    return create_recall_pictures([drawn], drawn.name)


def create_recall_pictures(plot_data: Sequence[RecallPlotData], subject: str = "") -> list[Picture]:
    of = f": {subject}" if subject else ""
    pictures = []
    if any(len(setting.lengths) > 1 for setting in plot_data):
        title = (
            f"recall by text length{of}. Bars show 95 % intervals. The thick line "
            "ends at the lower bound of the effective length"
        )
        pictures.append(Picture(CURVES, title, lambda: draw_recall_curves(plot_data)))
    if any(len(setting.depths) > 1 for setting in plot_data):
        title = (
            f"recall by length and depth{of}, %. The solid line marks the "
            "lower bound of the effective length. "
            "The dashed line marks the first length with a significant loss"
        )
        pictures.append(Picture(MAPS, title, lambda: draw_recall_heat_maps(plot_data)))
    return pictures


def build_recall_plot_data(findings: RecallFindings, name: str, is_baseline: bool = False) -> RecallPlotData:
    lengths = findings.length_recalls
    cells = [[findings.recall_at(length.length, depth) for length in lengths] for depth in findings.depths]
    found = findings.effective_length
    return RecallPlotData(
        name=name,
        lengths=[length.length for length in lengths],
        recall=[(100 * length.share, 100 * length.low, 100 * length.high) for length in lengths],
        depths=findings.depths,
        cells=[[None if cell is None else 100 * cell.accuracy for cell in of_depth] for of_depth in cells],
        effective=None if found is None else (found.at_least, found.first_lost_length),
        is_baseline=is_baseline,
    )


def draw_recall_curves(plot_data: Sequence[RecallPlotData]) -> Figure:
    from matplotlib.figure import Figure

    shown = plot_data[:MAX_LINES]
    figure = Figure(figsize=(8.2, 3.9), layout="constrained")
    pane = figure.subplots()
    for number, setting in enumerate(shown):
        _draw_recall_curve(pane, setting, number, 1 + 0.02 * (number - (len(shown) - 1) / 2))
    lengths = sorted({length for setting in shown for length in setting.lengths})
    _format_length_axis(pane, lengths)
    pane.set_ylabel("recall, %")
    pane.set_ylim(-3, 103)
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    if len(shown) < len(plot_data):
        pane.set_title(f"the first {len(shown)} of {len(plot_data)} settings", loc="left")
    if any(setting.name for setting in shown):
        add_line_legend(pane)
    return figure


def _draw_recall_curve(pane: Axes, setting: RecallPlotData, line_index: int, x_offset: float) -> None:
    """Draw a setting's recall with intervals.

    A thick line ends at the lower bound of the effective length.
    """
    points = [
        (length * x_offset, *recall) for length, recall in zip(setting.lengths, setting.recall, strict=True)
    ]
    colour = draw_line_with_intervals(
        pane, line_index, escape_text(setting.name), points, setting.is_baseline
    )
    if setting.effective is not None:
        reached = points[: sum(length <= setting.effective[0] for length in setting.lengths)]
        xs, ys = [x for x, *_ in reached], [y for _, y, *_ in reached]
        pane.plot(xs, ys, color=colour, linewidth=4, alpha=0.25, zorder=0)


def draw_recall_heat_maps(plot_data: Sequence[RecallPlotData]) -> Figure:
    from matplotlib.figure import Figure

    every = [setting for setting in plot_data if setting.depths]
    shown = every[:MAX_MAPS]
    columns = min(MAPS_A_LINE, len(shown))
    lines = -(-len(shown) // columns)
    widest = max(len(setting.lengths) for setting in shown)
    width = max(3.6, 0.9 + 0.48 * widest * columns)
    figure = Figure(figsize=(width, 0.5 + 2.3 * lines), layout="constrained")
    panes = figure.subplots(lines, columns, squeeze=False).ravel()
    for pane, setting in zip(panes, shown, strict=False):
        _draw_recall_heat_map(pane, setting)
    for pane in panes[len(shown) :]:
        pane.set_visible(False)
    if len(shown) < len(every):
        figure.suptitle(f"the first {len(shown)} of {len(every)} settings", color=MUTED, fontsize=9)
    return figure


def _draw_recall_heat_map(pane: Axes, setting: RecallPlotData) -> None:
    """Draw the recall heat map of one configuration, with depth 0 at the top and the shortest
    length on the left.
    """
    from matplotlib.patches import Rectangle

    for line, of_depth in enumerate(setting.cells):
        for column, percent in enumerate(of_depth):
            corner = column - 0.5, line - 0.5
            if percent is None:
                pane.add_patch(
                    Rectangle(corner, 1, 1, facecolor=PAPER, edgecolor=LINE, hatch="//", linewidth=0.5)
                )
                continue
            share = percent / 100
            colour = tuple(light + share * (dark - light) for light, dark in zip(LIGHT, DARK, strict=True))
            pane.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=1))
            text_colour = ON_DARK if share > 0.55 else ON_LIGHT
            pane.text(column, line, f"{percent:.0f}", ha="center", va="center", fontsize=8, color=text_colour)
    pane.set_xlim(-0.5, len(setting.lengths) - 0.5)
    pane.set_ylim(len(setting.depths) - 0.5, -0.5)
    pane.set_xticks(range(len(setting.lengths)), [_format_length(length) for length in setting.lengths])
    pane.set_yticks(range(len(setting.depths)), [f"{depth:g}" for depth in setting.depths])
    pane.tick_params(length=0)
    for spine in pane.spines.values():
        spine.set_visible(False)
    pane.set_xlabel("tokens")
    pane.set_ylabel("depth")
    pane.set_title(escape_mathtext(escape_text(setting.name)), loc="left", fontsize=9)
    if setting.effective is not None:
        _mark_effective_length(pane, setting.lengths, *setting.effective)


def _mark_effective_length(
    axes: Axes, lengths: Sequence[int], min_effective_length: int, first_lost_length: int | None
) -> None:
    """Mark the lower bound of the effective length by a solid line, and the first significant loss
    by a dashed one.
    """
    if lengths[0] < min_effective_length < lengths[-1]:
        axes.axvline(list(lengths).index(min_effective_length) + 0.5, color=GOOD, linewidth=1.6)
    if first_lost_length is not None:
        axes.axvline(
            list(lengths).index(first_lost_length) - 0.5, color=BAD, linewidth=1.6, linestyle=(0, (3, 2))
        )


def _format_length_axis(pane: Axes, lengths: Sequence[int]) -> None:
    from matplotlib.ticker import NullLocator

    pane.set_xscale("log", base=2)
    pane.set_xticks(lengths, labels=[_format_length(length) for length in lengths])
    pane.xaxis.set_minor_locator(NullLocator())
    pane.set_xlabel("text length in tokens, including the question and space for the answer")


def _format_length(length: int) -> str:
    """Format a text length, e.g. `4k` for 4,096 or `1,500`."""
    return f"{length // 1024}k" if length % 1024 == 0 else f"{length:,}"


def create_recall_pictures_per_row(
    rows: Sequence[tuple[TableRow, RecallFindings]], keys: Sequence[str]
) -> list[Picture]:
    """Return the recall plots of table rows. Empty if only one length was tested."""
    names = shorten_row_names([row for row, _ in rows], keys, MAX_LETTERS) if keys else [""] * len(rows)
    drawn = [
        build_recall_plot_data(findings, name, row.is_baseline)
        for (row, findings), name in zip(rows, names, strict=True)
    ]
    return create_recall_pictures(drawn)
