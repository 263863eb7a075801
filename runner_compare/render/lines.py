"""Draw line plots with error bars, one line per table row or setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner_base import escape_control_characters
from runner_base.drawing import BAD, FRONT, GOOD, INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS, LINES, MARKERS = ((INK, FRONT, BAD, GOOD, MUTED), ("-", (0, (4, 2))), ("o", "s", "^", "D", "v"))
MAX_LINES = len(COLOURS) * len(LINES)
LinePoint = tuple[float, float, float | None, float | None]  # x, and y with the ends of its interval


def draw_line_with_intervals(
    pane: Axes, line_index: int, label: str, points: Sequence[LinePoint], is_hollow: bool
) -> str:
    """Draw a line through points with intervals. Returns the line's colour."""
    colour = COLOURS[line_index % len(COLOURS)]
    pane.plot(
        [x for x, *_ in points],
        [middle for _, middle, *_ in points],
        color=colour,
        linestyle=LINES[line_index // len(COLOURS)],
        linewidth=1.2,
        marker=MARKERS[line_index % len(MARKERS)],
        markersize=5,
        markerfacecolor=PAPER if is_hollow else colour,
        label=escape_mathtext(label),
    )
    for x, _, low, high in points:
        if low is not None and high is not None:
            pane.plot(
                [x, x], [low, high], color=colour, linewidth=1, alpha=0.45, solid_capstyle="butt", zorder=1
            )
    return colour


def add_line_legend(pane: Axes) -> None:
    pane.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def escape_mathtext(text: str) -> str:
    """Escape `$` in a text, which matplotlib would render as a formula."""
    return escape_control_characters(text).replace("$", r"\$")
