"""How the letter of a choice is written in answers: a notation of extracting.py, as numbers are."""

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


def gold_letter(answer: str, after: str | None = None) -> str | None:
    """Return the letter after the last mark of a worked answer, or the answer that is only a
    letter; else None."""
    mark = "####" if after is None else after
    if mark in answer:
        match = re.compile(rf"{_GLUE}{_LETTER}").match(answer.rpartition(mark)[2])
    else:
        match = _ALONE.fullmatch(answer.strip()) if after is None else None
    return match["letter"].upper() if match else None


def plain_letter(text: str) -> str | None:
    """Return the letter of a text that is only a letter, such as `b` or `(B)`, or that begins with
    one: `B. blue`."""
    match = _ALONE.fullmatch(text.strip()) or _FIRST.match(text.strip())
    return match["letter"].upper() if match else None


def readable(text: str) -> str:
    """Return a text as the patterns read it: as it is."""
    return text


def plain(match: re.Match[str]) -> str:
    """Return the letter that was found."""
    return match["letter"]
