"""How pictures with axes look, on pages and in MLflow. Drawing imports matplotlib, which takes a
second."""

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

from runner_base import child

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
    """One drawing, drawn separately for each format."""

    name: str
    title: str
    make: Callable[[], Figure]

    def png(self) -> bytes:
        return self._write(format="png", dpi=150, metadata={"Software": None})

    def svg(self) -> str:
        """Return it as an SVG file."""
        return self._write(format="svg", metadata={"Date": None, "Creator": None}).decode("utf-8")

    def inline(self) -> str:
        """Return it as an SVG element of a page, in the page's colours."""
        text = self.svg()
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

    def _write(self, **how: Any) -> bytes:
        import matplotlib

        out = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.make().savefig(out, **how)
        return out.getvalue()


def draw_in_process(module: str, folder: Path) -> None:
    """Have a module draw a folder's pictures in its own process: what a plotting library takes must
    not stay here."""
    process = child.start("-m", module, str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, errors = process.communicate()
    if process.returncode:
        last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning(
            "no pictures were drawn: the drawing %s. %s", child.describe_exit(process.returncode), last_line
        )


def draw_missing(module: str, folder: Path, points: str) -> None:
    """Draw the pictures of a recorded job that has what they are drawn from, and none of them
    yet."""
    if (folder / points).exists() and not list(folder.glob("*.png")):
        draw_in_process(module, folder)


def save_pictures(points: Path, draw: Callable[[dict[str, Any]], list[Picture]]) -> None:
    """Draw the pictures of a file of points, as PNG files beside it."""
    for picture in draw(json.loads(points.read_text(encoding="utf-8"))):
        points.with_name(f"{picture.name}.png").write_bytes(picture.png())
