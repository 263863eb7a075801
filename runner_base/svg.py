"""Build SVG images without a plotting library; browsers and MLflow show them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def build_svg_document(width: float, height: float, elements: Iterable[str]) -> str:
    """Return a complete SVG document with a white background."""
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *elements, "</svg>"]) + "\n"


def format_svg_rectangle(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    """Return a filled rectangle, whose title appears as a tooltip."""
    position = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {position} fill="{colour}"><title>{escape_text(title)}</title></rect>'


def format_svg_text(
    x: float, y: float, content: str, *, bold: bool = False, colour: str = "black", anchor: str = "start"
) -> str:
    """Return a line of text. `anchor` (start, middle or end) aligns the text at x."""
    weight = "bold" if bold else "normal"
    position = f'x="{x:.1f}" y="{y:.1f}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {position}>{escape_text(content)}</text>"


def escape_text(text: str) -> str:
    """Escape a text for SVG and replace characters that XML forbids."""
    return escape("".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text))
