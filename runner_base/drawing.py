"""Creates plots with axes for HTML pages and MLflow. Imports matplotlib, which takes 1 s."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner_base import child_process

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

# On a page each colour of a drawing becomes a CSS variable, so that one drawing fits light and
# dark.
INK, MUTED, LINE, FRONT, GOOD, BAD = ("#1f2328", "#656d76", "#d8dee4", "#0969da", "#1a7f37", "#cf222e")
PAPER = "#fefefe"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    FRONT: "accent",
    GOOD: "good",
    BAD: "bad",
    PAPER: "paper",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "comparison",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
}


@dataclass
class Picture:
    """Named plot that is drawn separately for each output format."""

    name: str
    title: str
    make: Callable[[], Figure]

    def to_png(self) -> bytes:
        return self._render(format="png", dpi=150, metadata={"Software": None})

    def to_svg(self) -> str:
        return self._render(format="svg", metadata={"Date": None, "Creator": None}).decode("utf-8")

    def to_inline_svg(self) -> str:
        """Return the plot as an SVG element that uses the page's CSS colours."""
        text = self.to_svg()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        # two drawings on a page must not have the same ids
        text = re.sub(r'<g id="[^"]*">', "<g>", text)
        width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
        head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.title)}">'
        text = re.sub(r"<svg [^>]*>", lambda _: head, text, count=1)
        for colour, name in VARIABLES.items():
            text = text.replace(colour, f"var(--{name})")
        return text

    def _render(self, **save_options: Any) -> bytes:
        import matplotlib

        out = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.make().savefig(out, **save_options)
        return out.getvalue()


def draw_plots_in_child_process(module: str, folder: Path) -> None:
    """Draw a folder's plots in a child process, so that matplotlib's memory is freed afterwards."""
    process = child_process.start_python_child_process(
        "-m", module, str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, errors = process.communicate()
    if process.returncode:
        last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning(
            "plots are missing, because the plotting process %s. %s",
            child_process.describe_exit_code(process.returncode),
            last_line,
        )


def draw_missing_plots(module: str, folder: Path, points_file: str) -> None:
    """Draw the plots of a recorded job. Does nothing if PNG files exist or the plot data is
    missing.
    """
    if (folder / points_file).exists() and not list(folder.glob("*.png")):
        draw_plots_in_child_process(module, folder)


def save_plots(points_file: Path, draw: Callable[[dict[str, Any]], list[Picture]]) -> None:
    """Draw plots from a JSON file with plot data, and save PNG files next to the JSON file."""
    for picture in draw(json.loads(points_file.read_text(encoding="utf-8"))):
        points_file.with_name(f"{picture.name}.png").write_bytes(picture.to_png())
