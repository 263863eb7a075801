"""Finds the markers of a tool call format in an answer."""

from __future__ import annotations

from collections.abc import Callable

from runner_engine.tool_calls.calls import MalformedToolCall

SHOWN = 40  # characters of a text in a reason


def skip_expected_marker(text: str, start: int, marker: str) -> int:
    """Skip whitespace and the marker that must follow.

    Returns the position after the marker.
    """
    begin = len(text) - len(text[start:].lstrip())
    if not text.startswith(marker, begin):
        raise MalformedToolCall(f"{marker} is missing before {text[begin : begin + SHOWN]!r}")
    return begin + len(marker)


def read_until_marker(text: str, start: int, marker: str) -> tuple[str, int]:
    """Return the text between a position and the next marker, with the position after the marker."""
    at = text.find(marker, start)
    if at < 0:
        raise MalformedToolCall(f"{marker} is missing after {text[start : start + SHOWN]!r}")
    return text[start:at], at + len(marker)


def read_blocks_and_outside_text(
    text: str, opening: str, closing: str, read_block: Callable[[int], int]
) -> str:
    """Call `read_block` after each opening marker.

    Returns the text outside of all blocks.

    `read_block` takes the position after the opening marker, and returns the position after the
    closing marker.
    """
    said, at = [], 0
    while (start := text.find(opening, at)) >= 0:
        said.append(text[at:start])
        at = read_block(start + len(opening))
    said.append(text[at:])
    around = "".join(said)
    if closing in around:
        raise MalformedToolCall(f"{closing} has no matching opening marker")
    return around.strip()


def count_characters_before_first_marker(text: str, *markers: str) -> int:
    """Return the number of characters before the first complete or partial marker."""
    found = [at for mark in markers if (at := text.find(mark)) >= 0]
    partial = (
        len(text) - size
        for mark in markers
        for size in range(min(len(mark) - 1, len(text)), 0, -1)
        if text.endswith(mark[:size])
    )
    return min([*found, *partial, len(text)])


def count_characters_unless_marker_begins(text: str, *markers: str) -> int:
    """Return 0 if the text starts with a complete or partial marker, otherwise the text's length."""
    plain = text.lstrip()
    may_begin = any(plain.startswith(mark) or mark.startswith(plain) for mark in markers)
    return 0 if may_begin else len(text)
