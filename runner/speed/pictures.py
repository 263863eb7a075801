"""Draws the pictures of a sweep from the points in a job's folder: `python -m runner.speed.pictures
FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_base.drawing import BAD, FRONT, GOOD, INK, LINE, MUTED, save_pictures

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


def draw(points: dict[str, Any]) -> list[Picture]:
    """Return the pictures of a sweep: a curve needs two points or more."""
    cells = [cell for cell in points["cells"] if not cell["note"]]
    speed = DECODE if any(DECODE in cell for cell in cells) else OUTPUT
    latency = "itl_p50_s" if any("itl_p50_s" in cell for cell in cells) else "seconds"
    several = {
        axis: len({cell[axis] for cell in points["cells"]}) > 1 for axis in ("batch_size", "prompt_tokens")
    }
    pictures = []
    if any(several.values()):
        title = f"Throughput against latency: {points['title']}"
        pictures.append(
            Picture("throughput_latency", title, lambda: _throughput(points, speed, latency, title))
        )
    if several["batch_size"]:
        title_b = f"Speed against batch size: {points['title']}"
        pictures.append(Picture("speed_batch", title_b, lambda: _over_batches(points, speed, title_b)))
    if several["prompt_tokens"]:
        title_p = f"Time to first token against prompt length: {points['title']}"
        pictures.append(Picture("ttft_prompt", title_p, lambda: _over_prompts(points, title_p)))
    if len(points["loads"]) > 1:
        title_l = f"Latency against load: {points['title']}"
        pictures.append(Picture("latency_load", title_l, lambda: _over_rates(points, title_l)))
    return pictures


def _figure(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    pane = figure.subplots()
    pane.set_title(title.replace("$", r"\$"), loc="left")
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    return figure, pane


def _lines(cells: Sequence[Cell], shared_axes: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    """Group cells into lines by the axes they share, each with a label of the values that differ
    between lines."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[axis] for axis in shared_axes), []).append(cell)
    differing = [at for at in range(len(shared_axes)) if len({group[at] for group in groups}) > 1]
    return [
        (", ".join(_words(shared_axes[at], group[at]) for at in differing), group_cells)
        for group, group_cells in groups.items()
    ]


def _words(axis: str, value: float) -> str:
    match axis:
        case "batch_size":
            return f"batch {value}"
        case "prompt_tokens":
            return f"prompt {value}"
        case "new_tokens":
            return f"{value} new"
        case _:
            return f"{value:.0%} shared"


def _curves(
    pane: Axes, lines: Sequence[tuple[str, list[Cell]]], x_of: Callable[[Cell], float], name: str
) -> None:
    """Draw a line for each group, with bars from the lowest to the highest repeat of each point."""
    for (line_label, line_cells), colour, marker in zip(lines, COLOURS, MARKERS, strict=False):
        points = sorted((x_of(cell), *cell[name]) for cell in line_cells if name in cell)
        if not points:
            continue
        x, y, low, high = zip(*points, strict=True)
        _bars(pane, x, y, spreads=[*zip(low, high, strict=True)], is_vertical=True, colour=colour)
        pane.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.4, label=line_label or None)


def _bars(
    pane: Axes,
    x: Sequence[float],
    y: Sequence[float],
    spreads: Sequence[tuple[float, float]],
    is_vertical: bool,
    colour: str,
) -> None:
    """Draw a bar from the lowest to the highest repeat of each point; none where there was one
    repeat only."""
    where = [
        (at, other, *spread) for at, other, spread in zip(x, y, spreads, strict=True) if spread[0] < spread[1]
    ]
    if not where:
        return
    at, other, low, high = zip(*where, strict=True)
    if is_vertical:
        pane.vlines(at, low, high, color=colour, linewidth=1.2, alpha=0.6)
        pane.plot(at, low, at, high, color=colour, linestyle="", marker="_", markersize=5, alpha=0.6)
    else:
        pane.hlines(other, low, high, color=colour, linewidth=1.2, alpha=0.6)
        pane.plot(low, other, high, other, color=colour, linestyle="", marker="|", markersize=5, alpha=0.6)


def _notes(*notes: str, has_bars: bool) -> str:
    """Return what explains the marks of a picture: bars are named only where there are some."""
    return "; ".join([*notes, *(["bars: lowest and highest repeat"] if has_bars else [])])


def _has_bars(cells: Sequence[Cell], *names: str) -> bool:
    """Whether repeats differ in one of these figures."""
    return any(cell[name][1] < cell[name][2] for cell in cells for name in names if name in cell)


def _finish(pane: Axes, lines: int, note: str) -> None:
    """Explain the lines and other marks: in the legend, or below a single line."""
    if lines > MAX_LINES:
        note = "; ".join(filter(None, (note, f"{MAX_LINES} of {lines} lines")))
    if pane.get_legend_handles_labels()[0]:
        _legend(pane, note.replace("; ", "\n") or None)
    elif note:
        pane.text(0.0, -0.17, note, transform=pane.transAxes, fontsize=8, color=MUTED)


def _legend(pane: Axes, title: str | None = None) -> None:
    """Put the legend beside the picture, where it covers nothing."""
    pane.legend(
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
    )


def _powers(pane: Axes, values: Sequence[float]) -> None:
    """Scale the x axis by powers of two, with a tick at each measured value."""
    from matplotlib.ticker import NullLocator

    pane.set_xscale("log", base=2)
    pane.set_xticks(sorted(set(values)), labels=[f"{value:g}" for value in sorted(set(values))])
    pane.xaxis.set_minor_locator(NullLocator())


def _decades(pane: Axes) -> None:
    """Scale the y axis by decades, with plain numbers at 1, 2 and 5 of each, as one decade may hold
    all points."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    pane.set_yscale("log")
    pane.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    pane.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    pane.yaxis.set_minor_locator(NullLocator())


def _missing(pane: Axes, cells: Sequence[Cell], axis: str) -> None:
    """Mark cells without numbers, e.g. because they did not fit, on the x axis."""
    places = sorted({cell[axis] for cell in cells if cell["note"]})
    if places:
        pane.plot(places, [0.0] * len(places), linestyle="", marker="x", color=BAD, markersize=8, clip_on=False,
                  transform=pane.get_xaxis_transform(), label="some cells: no numbers", zorder=5)  # fmt: skip


def _throughput(points: dict[str, Any], speed: str, latency: str, title: str) -> Figure:
    figure, pane = _figure(title)
    cells = [cell for cell in points["cells"] if not cell["note"]]
    lines = _lines(cells, ("prompt_tokens", "new_tokens", "shared_prefix"))
    for number, ((line_label, some), colour, marker) in enumerate(zip(lines, COLOURS, MARKERS, strict=False)):
        ordered = sorted(some, key=lambda cell: cell["batch_size"])
        x, y = [1000 * cell[latency][0] for cell in ordered], [cell[speed][0] for cell in ordered]
        speeds = [(cell[speed][1], cell[speed][2]) for cell in ordered]
        latencies = [(1000 * cell[latency][1], 1000 * cell[latency][2]) for cell in ordered]
        _bars(pane, x, y, speeds, is_vertical=True, colour=colour)
        _bars(pane, x, y, latencies, is_vertical=False, colour=colour)
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
    _finish(pane, len(lines), _notes("numbers: batch size", has_bars=_has_bars(cells, speed, latency)))
    return figure


def _over_batches(points: dict[str, Any], speed: str, title: str) -> Figure:
    figure, pane = _figure(title)
    cells = points["cells"]
    lines = _lines(
        [cell for cell in cells if not cell["note"]], ("prompt_tokens", "new_tokens", "shared_prefix")
    )
    _curves(pane, lines, lambda cell: cell["batch_size"], speed)
    _powers(pane, [cell["batch_size"] for cell in cells])
    _missing(pane, cells, "batch_size")
    pane.set_xlabel("batch size, rows")
    pane.set_ylabel(SPEED_WORDS[speed])
    pane.set_ylim(bottom=0)
    _finish(pane, len(lines), _notes(has_bars=_has_bars(cells, speed)))
    return figure


def _over_prompts(points: dict[str, Any], title: str) -> Figure:
    figure, pane = _figure(title)
    cells = points["cells"]
    lines = _lines(
        [cell for cell in cells if not cell["note"]], ("batch_size", "new_tokens", "shared_prefix")
    )
    _curves(pane, lines, lambda cell: cell["prompt_tokens"], "ttft_s")
    _powers(pane, [cell["prompt_tokens"] for cell in cells])
    _missing(pane, cells, "prompt_tokens")
    pane.set_xlabel("prompt length, tokens")
    pane.set_ylabel("time to first token, s")
    _decades(pane)
    _finish(pane, len(lines), _notes(has_bars=_has_bars(cells, "ttft_s")))
    return figure


def _over_rates(points: dict[str, Any], title: str) -> Figure:
    figure, pane = _figure(title)
    loads = points["loads"]
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
    if points["knee"] is not None:
        pane.axvline(
            points["knee"], color=GOOD, linewidth=1.2, zorder=0, label=f"knee: {points['knee']:g} requests/s"
        )
    _powers(pane, rates)
    _decades(pane)
    pane.set_xlabel("arriving requests/s")
    pane.set_ylabel("latency since the request was due, s")
    _legend(pane)
    return figure


if __name__ == "__main__":
    save_pictures(Path(sys.argv[1]) / POINTS, draw)
