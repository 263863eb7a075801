"""Draws a table of model files: KL over size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.compare.files import KL, FileTable, Kind
from runner.compare.pictures import annotated, finish_pane, literal, separate
from runner.core.drawing import FRONT, MUTED, PAPER, Picture
from runner.core.metrics import ENDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation


def draw_files(table: FileTable) -> list[Picture]:
    """Return the picture of a table of model files: none without a KL."""
    title = (
        "KL to the reference over the size of the file, with 95 % intervals; filled: on the front of bytes, memory and "
        "KL, no file there dominates it beyond noise"
    )
    is_drawn = any(it.on_front is not None and not it.is_reference for it in table.files)
    return [Picture("files", title, lambda: kl_over_size(table))] if is_drawn else []


def kl_over_size(table: FileTable) -> Figure:
    """Draw the KL of each file, on a logarithmic axis, over its size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.8, 4.4), layout="constrained")
    pane = figure.subplots()
    labels: list[Annotation] = []
    for it in table.files:
        kl, low, high = (it.metric(f"{KL}{end}", Kind.likelihood) for end in ENDS)
        size = next((it.metric("file_mib", kind) for kind in Kind if it.metric("file_mib", kind)), None)
        if it.is_reference or not kl or not size:
            continue
        colour = FRONT if it.on_front else MUTED
        pane.plot([size, size], [max(low or kl, kl / 100), high or kl], color=colour, linewidth=1.2, alpha=0.6)
        fill_colour = colour if it.on_front else PAPER
        pane.plot([size], [kl], marker="o", markersize=6.5, color=colour, markerfacecolor=fill_colour)
        labels.append(annotated(pane, literal(it.name), (size, kl), colour))
    pane.set_yscale("log")
    pane.set_xlabel("file, MiB")
    pane.set_ylabel("KL to the reference, nats a token")
    finish_pane(pane)
    separate(figure, [labels])
    return figure
