"""Patterns for answers that are the letter of a choice. The module implements the protocol Notation."""

from __future__ import annotations

import re

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GLUE = r"(?:\\f?boxed\{|\\text\{|[\s*_`$\\(\[{:=\"'])*"  # before the letter: **B**, (B), \text{B}
_LETTER = r"(?P<letter>[A-Z])(?![A-Za-z0-9_'])"
MARKED = re.compile(rf"\#\#\#\#{_GLUE}{_LETTER}")
SAID = re.compile(rf"\b(?i:answer\s+is){_GLUE}{_LETTER}")
# In "A pen" and "I have", A and I are words, not letters of choices.
WITHIN = re.compile(rf"(?<![A-Za-z0-9_']){_LETTER}(?!(?<=[AI])\s+[a-z])")
_FIRST = re.compile(r"\(?(?P<letter>[A-Z])[).:]\s")
_ALONE = re.compile(r"\(?(?P<letter>[A-Za-z])[).:]?")


def find_gold_letter(answer: str, answer_marker: str | None = None) -> str | None:
    """Return the gold letter: the letter after the last answer marker, or the whole answer if it is a
    letter. None otherwise.
    """
    mark = "####" if answer_marker is None else answer_marker
    if mark in answer:
        match = re.compile(rf"{_GLUE}{_LETTER}").match(answer.rpartition(mark)[2])
    else:
        match = _ALONE.fullmatch(answer.strip()) if answer_marker is None else None
    return match["letter"].upper() if match else None


def parse_choice_letter(text: str) -> str | None:
    """Return the letter of a text such as `b`, `(B)` or `B. blue`. None for other texts."""
    match = _ALONE.fullmatch(text.strip()) or _FIRST.match(text.strip())
    return match["letter"].upper() if match else None


def normalize_text(text: str) -> str:
    """Return the text unchanged, because letter patterns need no normalization."""
    return text


def to_canonical_form(match: re.Match[str]) -> str:
    return match["letter"]
