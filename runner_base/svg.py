"""Elements of SVG pictures, without a plotting library; browsers and MLflow's page show them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def document(width: float, height: float, pieces: Iterable[str]) -> str:
    """Return a whole picture on white."""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *pieces, "</svg>"]) + "\n"


def box(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    """Return a filled rectangle; its title shows under the mouse."""
    position = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {position} fill="{colour}"><title>{plain(title)}</title></rect>'


def text(
    x: float, y: float, content: str, *, bold: bool = False, colour: str = "black", anchor: str = "start"
) -> str:
    """Return a line of text; `anchor` says which of its points is at x: start, middle or end."""
    weight = "bold" if bold else "normal"
    position = f'x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {position}>{plain(content)}</text>"


def plain(text: str) -> str:
    """Return words as a picture may contain them: no markup, and none of the characters that XML
    forbids."""
    return escape("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text))
