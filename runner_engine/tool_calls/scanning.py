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


def before_marks(text: str, *marks: str) -> int:
    """Return how many characters of a text stand before all of these marks, and before what may
    become one."""
    found = [at for mark in marks if (at := text.find(mark)) >= 0]
    partial = (
        len(text) - size
        for mark in marks
        for size in range(min(len(mark) - 1, len(text)), 0, -1)
        if text.endswith(mark[:size])
    )
    return min([*found, *partial, len(text)])


def unless_begun(text: str, *marks: str) -> int:
    """Return 0 if one of these marks begins a text, or may do so; else the length of the text."""
    plain = text.lstrip()
    may_begin = any(plain.startswith(mark) or mark.startswith(plain) for mark in marks)
    return 0 if may_begin else len(text)
