"""Scans an answer from mark to mark, each of which must be at its expected position."""

from __future__ import annotations

from collections.abc import Callable

from runner_engine.tool_calls.calls import MalformedToolCall

SHOWN = 40  # characters of a text in a reason


def expect_mark(text: str, start: int, mark: str) -> int:
    """Return the position after a mark that must come next, after whitespace."""
    begin = len(text) - len(text[start:].lstrip())
    if not text.startswith(mark, begin):
        raise MalformedToolCall(f"{mark} is missing before {text[begin : begin + SHOWN]!r}")
    return begin + len(mark)


def read_until_mark(text: str, start: int, mark: str) -> tuple[str, int]:
    """Return the text before a mark, and the position after the mark."""
    at = text.find(mark, start)
    if at < 0:
        raise MalformedToolCall(f"{mark} is missing behind {text[start : start + SHOWN]!r}")
    return text[start:at], at + len(mark)


def read_blocks(text: str, opening: str, closing: str, read_block: Callable[[int], int]) -> str:
    """Read the content after each opening mark with `read_block`, and return the text around all blocks.

    `read_block` gets the position after the mark, and returns the position after the closing one.
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


def count_before_marks(text: str, *marks: str) -> int:
    """Return how many characters precede all marks, and precede what may become one."""
    found = [at for mark in marks if (at := text.find(mark)) >= 0]
    partial = (
        len(text) - size
        for mark in marks
        for size in range(min(len(mark) - 1, len(text)), 0, -1)
        if text.endswith(mark[:size])
    )
    return min([*found, *partial, len(text)])


def count_unless_begun(text: str, *marks: str) -> int:
    """Return 0 if the text begins with one of these marks, or may do so; else its length."""
    plain = text.lstrip()
    may_begin = any(plain.startswith(mark) or mark.startswith(plain) for mark in marks)
    return 0 if may_begin else len(text)
