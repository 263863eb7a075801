"""Draws the plots of a sweep: `python -m runner.speed.pictures FOLDER` reads a job's folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_base.drawing import BAD, FRONT, GOOD, INK, LINE, MUTED, save_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODULE = "runner.speed.pictures"
POINTS = "points.json"  # in the job's folder: the data of the pictures
COLOURS = (FRONT, "#bc4c00", GOOD, "#8250df", BAD, "#1b7c83", MUTED, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SIZE = (7.2, 4.4)  # inches
MAX_LINES = 8  # in one picture, so that they can be distinguished
MAX_LABELS = 24  # beside points
DECODE, OUTPUT = "decode_tok_per_s", "output_tok_per_s"
SPEED_WORDS = {DECODE: "decode speed, tokens/s", OUTPUT: "speed of whole answers, tokens/s"}

Cell = dict[str, Any]


def create_pictures(picture_data: dict[str, Any]) -> list[Picture]:
    """Return all pictures of a sweep. A curve is drawn only with at least two points."""
    cells = [cell for cell in picture_data["cells"] if not cell["note"]]
    speed = DECODE if any(DECODE in cell for cell in cells) else OUTPUT
    latency = "itl_p50_s" if any("itl_p50_s" in cell for cell in cells) else "seconds"
    several = {
        axis: len({cell[axis] for cell in picture_data["cells"]}) > 1
        for axis in ("batch_size", "prompt_tokens")
    }
    pictures = []
    if any(several.values()):
        title = f"Throughput against latency: {picture_data['title']}"
        pictures.append(
            Picture(
                "throughput_latency",
                title,
                lambda: _draw_throughput_vs_latency(picture_data, speed, latency, title),
            )
        )
    if several["batch_size"]:
        title_b = f"Speed against batch size: {picture_data['title']}"
        pictures.append(
            Picture("speed_batch", title_b, lambda: _draw_speed_by_batch_size(picture_data, speed, title_b))
        )
    if several["prompt_tokens"]:
        title_p = f"Time to first token by prompt length: {picture_data['title']}"
        pictures.append(
            Picture("ttft_prompt", title_p, lambda: _draw_ttft_by_prompt_length(picture_data, title_p))
        )
    if len(picture_data["loads"]) > 1:
        title_l = f"Latency against load: {picture_data['title']}"
        pictures.append(
            Picture("latency_load", title_l, lambda: _draw_latency_by_rate(picture_data, title_l))
        )
    return pictures


def _create_titled_axes(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    pane = figure.subplots()
    pane.set_title(title.replace("$", r"\$"), loc="left")
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    return figure, pane


def _group_cells_into_plot_lines(
    cells: Sequence[Cell], setting_names: Sequence[str]
) -> list[tuple[str, list[Cell]]]:
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[axis] for axis in setting_names), []).append(cell)
    differing = [at for at in range(len(setting_names)) if len({group[at] for group in groups}) > 1]
    return [
        (", ".join(_format_axis_value(setting_names[at], group[at]) for at in differing), group_cells)
        for group, group_cells in groups.items()
    ]


def _format_axis_value(axis: str, value: float) -> str:
    match axis:
        case "batch_size":
            return f"batch {value}"
        case "prompt_tokens":
            return f"prompt {value}"
        case "new_tokens":
            return f"{value} new"
        case _:
            return f"{value:.0%} shared"


def _draw_curves(
    axes: Axes, lines: Sequence[tuple[str, list[Cell]]], x_of: Callable[[Cell], float], metric: str
) -> None:
    for (line_label, line_cells), colour, marker in zip(lines, COLOURS, MARKERS, strict=False):
        points = sorted((x_of(cell), *cell[metric]) for cell in line_cells if metric in cell)
        if not points:
            continue
        x, y, low, high = zip(*points, strict=True)
        _draw_error_bars(axes, x, y, ranges=[*zip(low, high, strict=True)], is_vertical=True, colour=colour)
        axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.4, label=line_label or None)


def _draw_error_bars(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    ranges: Sequence[tuple[float, float]],
    is_vertical: bool,
    colour: str,
) -> None:
    where = [
        (at, other, *spread) for at, other, spread in zip(x, y, ranges, strict=True) if spread[0] < spread[1]
    ]
    if not where:
        return
    at, other, low, high = zip(*where, strict=True)
    if is_vertical:
        axes.vlines(at, low, high, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(at, low, at, high, color=colour, linestyle="", marker="_", markersize=5, alpha=0.6)
    else:
        axes.hlines(other, low, high, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(low, other, high, other, color=colour, linestyle="", marker="|", markersize=5, alpha=0.6)


def _join_legend_notes(*notes: str, has_bars: bool) -> str:
    return "; ".join([*notes, *(["bars: lowest and highest repeat"] if has_bars else [])])


def _has_error_bars(cells: Sequence[Cell], *metrics: str) -> bool:
    return any(cell[name][1] < cell[name][2] for cell in cells for name in metrics if name in cell)


def _add_legend_or_note(axes: Axes, num_lines: int, explanation: str) -> None:
    if num_lines > MAX_LINES:
        explanation = "; ".join(filter(None, (explanation, f"{MAX_LINES} of {num_lines} lines")))
    if axes.get_legend_handles_labels()[0]:
        _add_legend(axes, explanation.replace("; ", "\n") or None)
    elif explanation:
        axes.text(0.0, -0.17, explanation, transform=axes.transAxes, fontsize=8, color=MUTED)


def _add_legend(axes: Axes, title: str | None = None) -> None:
    """Put the legend next to the plot, where it hides no points."""
    axes.legend(
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
    )


def _use_log2_x_axis(axes: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(values)), labels=[f"{value:g}" for value in sorted(set(values))])
    axes.xaxis.set_minor_locator(NullLocator())


def _use_log10_y_axis(axes: Axes) -> None:
    """Scale the y axis logarithmically, with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _mark_failed_cells(axes: Axes, cells: Sequence[Cell], axis: str) -> None:
    """Mark settings without measurements on the x axis, such as those that did not fit in memory."""
    places = sorted({cell[axis] for cell in cells if cell["note"]})
    if places:
        axes.plot(places, [0.0] * len(places), linestyle="", marker="x", color=BAD, markersize=8, clip_on=False,
                  transform=axes.get_xaxis_transform(), label="some cells: no numbers", zorder=5)  # fmt: skip


def _draw_throughput_vs_latency(plot_data: dict[str, Any], speed: str, latency: str, title: str) -> Figure:
    figure, pane = _create_titled_axes(title)
    cells = [cell for cell in plot_data["cells"] if not cell["note"]]
    lines = _group_cells_into_plot_lines(cells, ("prompt_tokens", "new_tokens", "shared_prefix"))
    for number, ((line_label, some), colour, marker) in enumerate(zip(lines, COLOURS, MARKERS, strict=False)):
        ordered = sorted(some, key=lambda cell: cell["batch_size"])
        x, y = [1000 * cell[latency][0] for cell in ordered], [cell[speed][0] for cell in ordered]
        speeds = [(cell[speed][1], cell[speed][2]) for cell in ordered]
        latencies = [(1000 * cell[latency][1], 1000 * cell[latency][2]) for cell in ordered]
        _draw_error_bars(pane, x, y, speeds, is_vertical=True, colour=colour)
        _draw_error_bars(pane, x, y, latencies, is_vertical=False, colour=colour)
        pane.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.4, label=line_label or None)
        if len(cells) <= MAX_LABELS:
            for cell, point in zip(ordered, zip(x, y, strict=True), strict=True):
                # so that labels of near lines do not overlap
                beside = ((6, -8), (-6, 4), (6, 4), (-6, -8))[number % 4]
                pane.annotate(
                    f"{cell['batch_size']}",
                    point,
                    beside,
                    textcoords="offset points",
                    fontsize=7,
                    color=colour,
                    ha="left" if beside[0] > 0 else "right",
                )
    pane.set_xlabel(
        "time between tokens, median, ms" if latency == "itl_p50_s" else "time of a whole batch, ms"
    )
    pane.set_ylabel(SPEED_WORDS[speed])
    pane.set_ylim(bottom=0)
    pane.set_xlim(left=0)
    _add_legend_or_note(
        pane,
        len(lines),
        _join_legend_notes("numbers: batch size", has_bars=_has_error_bars(cells, speed, latency)),
    )
    return figure


def _draw_speed_by_batch_size(plot_data: dict[str, Any], speed: str, title: str) -> Figure:
    figure, pane = _create_titled_axes(title)
    cells = plot_data["cells"]
    lines = _group_cells_into_plot_lines(
        [cell for cell in cells if not cell["note"]], ("prompt_tokens", "new_tokens", "shared_prefix")
    )
    _draw_curves(pane, lines, lambda cell: cell["batch_size"], speed)
    _use_log2_x_axis(pane, [cell["batch_size"] for cell in cells])
    _mark_failed_cells(pane, cells, "batch_size")
    pane.set_xlabel("batch size, rows")
    pane.set_ylabel(SPEED_WORDS[speed])
    pane.set_ylim(bottom=0)
    _add_legend_or_note(pane, len(lines), _join_legend_notes(has_bars=_has_error_bars(cells, speed)))
    return figure


def _draw_ttft_by_prompt_length(plot_data: dict[str, Any], title: str) -> Figure:
    figure, pane = _create_titled_axes(title)
    cells = plot_data["cells"]
    lines = _group_cells_into_plot_lines(
        [cell for cell in cells if not cell["note"]], ("batch_size", "new_tokens", "shared_prefix")
    )
    _draw_curves(pane, lines, lambda cell: cell["prompt_tokens"], "ttft_s")
    _use_log2_x_axis(pane, [cell["prompt_tokens"] for cell in cells])
    _mark_failed_cells(pane, cells, "prompt_tokens")
    pane.set_xlabel("prompt length, tokens")
    pane.set_ylabel("time to first token, s")
    _use_log10_y_axis(pane)
    _add_legend_or_note(pane, len(lines), _join_legend_notes(has_bars=_has_error_bars(cells, "ttft_s")))
    return figure


def _draw_latency_by_rate(plot_data: dict[str, Any], title: str) -> Figure:
    figure, pane = _create_titled_axes(title)
    loads = plot_data["loads"]
    rates = [load["rate"] for load in loads]
    shown = (("answer_p50_s", "whole answer"), ("answer_p95_s", "whole answer"), ("answer_p99_s", "whole answer"),
             ("ttft_p50_s", "first token"), ("ttft_p95_s", "first token"))  # fmt: skip
    styles = {"p50": "-", "p95": "--", "p99": ":"}
    for name, label in shown:
        if any(name in load for load in loads):
            rank = name.split("_")[1]
            colour, marker = (COLOURS[0], "o") if label == "whole answer" else (COLOURS[1], "s")
            values = [load.get(name) for load in loads]
            pane.plot(rates, values, linestyle=styles[rank], color=colour, marker=marker, markersize=4, linewidth=1.4,
                      label=f"{label}, {rank}")  # fmt: skip
    if plot_data["knee"] is not None:
        pane.axvline(
            plot_data["knee"],
            color=GOOD,
            linewidth=1.2,
            zorder=0,
            label=f"knee: {plot_data['knee']:g} requests/s",
        )
    _use_log2_x_axis(pane, rates)
    _use_log10_y_axis(pane)
    pane.set_xlabel("arriving requests/s")
    pane.set_ylabel("latency from scheduled arrival, s")
    _add_legend(pane)
    return figure


if __name__ == "__main__":
    save_plots(Path(sys.argv[1]) / POINTS, create_pictures)
