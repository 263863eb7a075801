"""How forms are read: from mark to mark, each of which must be where it belongs."""

from __future__ import annotations

from collections.abc import Callable

from runner_engine.tool_calls.calls import Malformed

SHOWN = 40  # characters of a text in a reason


def behind(text: str, start: int, mark: str) -> int:
    """Return the place behind a mark that must come next, after blanks."""
    begin = len(text) - len(text[start:].lstrip())
    if not text.startswith(mark, begin):
        raise Malformed(f"{mark} is missing before {text[begin : begin + SHOWN]!r}")
    return begin + len(mark)


def up_to(text: str, start: int, mark: str) -> tuple[str, int]:
    """Return the text before a mark, and the place behind the mark."""
    at = text.find(mark, start)
    if at < 0:
        raise Malformed(f"{mark} is missing behind {text[start : start + SHOWN]!r}")
    return text[start:at], at + len(mark)


def between_marks(text: str, opening: str, closing: str, block: Callable[[int], int]) -> str:
    """Let `block` read what stands behind each opening mark, and return the text around all blocks.

    `block` gets the place behind the mark, and returns the place behind the closing one.
    """
    said, at = [], 0
    while (start := text.find(opening, at)) >= 0:
        said.append(text[at:start])
        at = block(start + len(opening))
    said.append(text[at:])
    around = "".join(said)
    if closing in around:
        raise Malformed(f"{closing} closes nothing")
    return around.strip()
