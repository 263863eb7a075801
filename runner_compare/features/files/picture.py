"""Draws a table of model files: KL over size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner_base import Picture
from runner_base.drawing import FRONT, MUTED
from runner_compare.features.files.ranks import KL, FileTable, Kind
from runner_compare.features.tokens.divergence_picture import KlPoint, draw_points
from runner_compare.metrics import ENDS
from runner_compare.render.pictures import literal, separate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_files(table: FileTable) -> list[Picture]:
    """Return the picture of a table of model files: none without a KL."""
    title = (
        "KL to the reference over the size of the file, with 95 % intervals; filled: on the front of bytes, memory and "
        "KL, no file there dominates it beyond noise"
    )
    is_drawn = any(file.on_front is not None and not file.is_reference for file in table.files)
    return [Picture("files", title, lambda: kl_over_size(table))] if is_drawn else []


def kl_over_size(table: FileTable) -> Figure:
    """Draw the KL of each file, on a logarithmic axis, over its size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.8, 4.4), layout="constrained")
    pane = figure.subplots()
    points = []
    for file in table.files:
        kl, low, high = (file.metric(f"{KL}{end}", Kind.likelihood) for end in ENDS)
        size = next((file.metric("file_mib", kind) for kind in Kind if file.metric("file_mib", kind)), None)
        if file.is_reference or not kl or not size:
            continue
        colour = FRONT if file.on_front else MUTED
        points.append(KlPoint(literal(file.name), size, kl, low, high, colour, is_filled=bool(file.on_front)))
    separate(figure, [draw_points(pane, points, "file, MiB")])
    return figure
