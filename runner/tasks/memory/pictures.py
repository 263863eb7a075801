"""Draws the pictures of the memory task: `python -m runner.tasks.memory.pictures FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_base.drawing import BAD, FRONT, GOOD, INK, LINE, MUTED, save_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODULE = "runner.tasks.memory.pictures"
POINTS = "memory.json"  # in the job's folder: what the pictures are drawn from
PARTS = (("weights", FRONT), ("kv", "#bc4c00"), ("activation", GOOD), ("runtime", "#b7bfc8"))
WORDS = {"kv": "KV cache", "activation": "activations", "runtime": "runtime: libraries, kernels, the rest"}
COLOURS = (FRONT, "#bc4c00", GOOD, "#8250df", BAD, "#1b7c83", MUTED, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MAX_POINTS = 10  # that bars are drawn of
MAX_LINES = 8


def create_pictures(picture_data: dict[str, Any]) -> list[Picture]:
    """Return two pictures: peak memory by stage, and KV cache size by number of tokens."""
    pictures = [
        Picture(
            "memory",
            f"Peak memory by stage: {picture_data['title']}",
            lambda: _draw_peak_memory_by_stage(picture_data),
        )
    ]
    if len({point["tokens"] for point in picture_data["kv"]}) > 1:
        pictures.append(
            Picture(
                "context",
                f"KV cache against context: {picture_data['title']}",
                lambda: _draw_kv_size_by_context(picture_data),
            )
        )
    return pictures


def _create_titled_axes(title: str, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, height), layout="constrained")
    pane = figure.subplots()
    pane.set_title(title.replace("$", r"\$"), loc="left")
    pane.grid(color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    return figure, pane


def _draw_peak_memory_by_stage(picture_data: dict[str, Any]) -> Figure:
    """Draw a stacked bar per stage with weights, KV cache and activations, and mark the predicted peak."""
    rows = [
        row for row in picture_data["rows"] if row.get("peak_mib") is not None and row["stage"] != "import"
    ]
    points = list(dict.fromkeys((row["batch"], row["context"]) for row in rows if row["batch"]))
    shown = set(points[:: -(-len(points) // MAX_POINTS)]) | set(points[-1:])
    rows = [row for row in rows if not row["batch"] or (row["batch"], row["context"]) in shown]
    figure, pane = _create_titled_axes(
        f"Peak memory by stage: {picture_data['title']}", 1.5 + 0.34 * len(rows)
    )
    for part, colour in PARTS:
        widths = [max(row[f"{part}_mib"], 0.0) for row in rows]
        left = [
            sum(max(row[f"{earlier}_mib"], 0.0) for earlier, _ in PARTS[: [p for p, _ in PARTS].index(part)])
            for row in rows
        ]
        pane.barh(range(len(rows)), widths, left=left, height=0.62, color=colour, label=WORDS.get(part, part))
    marks = [(row["predicted_mib"], index) for index, row in enumerate(rows) if row["predicted_mib"]]
    if marks:
        x, y = zip(*marks, strict=True)
        pane.plot(
            x,
            y,
            linestyle="",
            marker="|",
            markersize=17,
            markeredgewidth=2,
            color=INK,
            label="predicted peak",
        )
    names = [row["stage"] + (f", {row['batch']} × {row['context']}" if row["batch"] else "") for row in rows]
    pane.set_yticks(range(len(rows)), names)
    pane.set_ylim(len(rows) - 0.4, -0.6)
    pane.set_xlim(left=0)
    pane.grid(visible=False, axis="y")
    pane.tick_params(axis="y", length=0)
    pane.set_xlabel("MiB above the memory after importing libraries")
    pane.legend(title="stage, sequences × tokens", loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False,
                fontsize=8, title_fontsize=8, alignment="left")  # fmt: skip
    return figure


def _draw_kv_size_by_context(picture_data: dict[str, Any]) -> Figure:
    """Draw the KV cache size by sequence length, one colour per batch size, with the calculated size."""
    figure, pane = _create_titled_axes(f"KV cache against context: {picture_data['title']}", 4.2)
    batches = sorted({point["batch"] for point in picture_data["kv"]})
    for batch, colour, marker in zip(batches, COLOURS, MARKERS, strict=False):
        points = [point for point in picture_data["kv"] if point["batch"] == batch]
        x = [point["tokens"] / batch for point in points]
        pane.vlines(x, [point["low"] for point in points], [point["high"] for point in points], color=colour)
        pane.plot(x, [point["mib"] for point in points], linestyle="", marker=marker, markersize=6, color=colour,
                  label=f"batch {batch}, measured")  # fmt: skip
        if picture_data["bytes_per_token"]:
            ends = [0.0, max(x) * 1.05]
            pane.plot(
                ends,
                [at * batch * picture_data["bytes_per_token"] / 2**20 for at in ends],
                color=colour,
                linewidth=1,
            )
    pane.set_xlabel("tokens of each row")
    pane.set_ylabel("KV cache of all rows, MiB")
    pane.set_xlim(left=0)
    pane.set_ylim(bottom=0)
    more = f"; {MAX_LINES} of {len(batches)} batch sizes" if len(batches) > MAX_LINES else ""
    pane.legend(title=f"lines: the formula{more}", loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False,
                fontsize=8, title_fontsize=8, alignment="left")  # fmt: skip
    return figure


if __name__ == "__main__":
    save_plots(Path(sys.argv[1]) / POINTS, create_pictures)
