"""Scans an answer for the marks of a tool call format. Each mark must be at its expected
position.
"""

from __future__ import annotations

from collections.abc import Callable

from runner_engine.tool_calls.calls import MalformedToolCall

SHOWN = 40  # characters of a text in a reason


def expect_mark(text: str, start: int, mark: str) -> int:
    """Skip whitespace and the mark that must follow. Returns the position after the mark."""
    begin = len(text) - len(text[start:].lstrip())
    if not text.startswith(mark, begin):
        raise MalformedToolCall(f"{mark} is missing before {text[begin : begin + SHOWN]!r}")
    return begin + len(mark)


def read_until_mark(text: str, start: int, mark: str) -> tuple[str, int]:
    """Return the text between a position and the next mark, and the position after the mark."""
    at = text.find(mark, start)
    if at < 0:
        raise MalformedToolCall(f"{mark} is missing behind {text[start : start + SHOWN]!r}")
    return text[start:at], at + len(mark)


def read_marked_blocks(text: str, opening: str, closing: str, read_block: Callable[[int], int]) -> str:
    """Call `read_block` for the content after each opening mark. Returns the text outside of all
    blocks.

    `read_block` takes the position after the opening mark, and returns the position after the
    closing mark.
    """
    said, at = [], 0
    while (start := text.find(opening, at)) >= 0:
        said.append(text[at:start])
        at = read_block(start + len(opening))
    said.append(text[at:])
    around = "".join(said)
    if closing in around:
        raise MalformedToolCall(f"{closing} closes nothing")
    return around.strip()


def count_characters_before_marks(text: str, *marks: str) -> int:
    """Return how many characters precede the first mark, or the first text that may become a mark."""
    found = [at for mark in marks if (at := text.find(mark)) >= 0]
    partial = (
        len(text) - size
        for mark in marks
        for size in range(min(len(mark) - 1, len(text)), 0, -1)
        if text.endswith(mark[:size])
    )
    return min([*found, *partial, len(text)])


def count_unless_mark_begun(text: str, *marks: str) -> int:
    """Return 0 if the text starts with one of the marks, or with the beginning of one. Otherwise
    return the text's length.
    """
    plain = text.lstrip()
    may_begin = any(plain.startswith(mark) or mark.startswith(plain) for mark in marks)
    return 0 if may_begin else len(text)
