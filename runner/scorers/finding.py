"""Finds an answer in a text: the last of several matches, the last box."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable


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
