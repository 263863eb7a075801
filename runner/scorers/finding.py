"""Finds an answer in a text: the last of several matches, the last box."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable


def last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    """Return the last match, or None."""
    newest = deque(matches, maxlen=1)
    return newest[0] if newest else None


def last_box(text: str) -> str:
    """Return the content of the last \\boxed{}; empty if there is none, or if it was cut off."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    if start < len("\\boxed{"):
        return ""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[start : brace.start()]
    return ""


def with_boxes(text: str, read: Callable[[str], str | None]) -> str:
    """Return a text with what `read` finds in each outermost \\boxed{} in place of its content, if anything."""
    pieces: list[str] = []
    copied, depth, begin, is_box = 0, 0, 0, False
    for brace in re.compile(r"(?:\\f?boxed)?\{|\}").finditer(text):
        if brace[0] == "}":
            depth = max(0, depth - 1)
            if is_box and depth == 0:
                pieces += [text[copied:begin], read(text[begin : brace.start()]) or ""]
                copied, is_box = brace.start(), False
        elif is_box:
            depth += 1
        elif brace[0] != "{":
            depth, begin, is_box = 1, brace.end(), True
    return "".join([*pieces, text[copied:]])
