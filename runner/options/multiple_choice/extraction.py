"""Finds the letter that a generated answer chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from runner.scorers import LETTERS
from runner.scorers.letters import parse_choice_letter

_GLUE = r"(?:\\f?boxed\{|\\text\{|[\s*_`$\\(\[{:=\"'])*"  # before the letter: **B**, (B), \text{B}
_STATED = re.compile(rf"\b(?i:answer|choice|option)(?:\s+(?i:is))?{_GLUE}(?P<letter>[A-Z])(?![A-Za-z0-9_'])")
# in "A pen" and "I have", A and I are words
_ALONE = re.compile(
    r"(?<![A-Za-z0-9_'])(?P<letter>[A-Z])(?![A-Za-z0-9_'])(?!(?<=[AI])\s+(?!(?:or|and|is)\b)[a-z])"
)


class LetterRule(StrEnum):
    """How the letter was found."""

    whole = "whole"  # the answer begins with the letter, such as `B` or `(B) blue`
    stated = "stated"  # after `answer`, `choice` or `option`; the last one counts
    only_letter = "only_letter"  # a single choice's letter stands in the text
    choice_text = "choice_text"  # a single choice's text stands in the answer


class FoundLetter(NamedTuple):
    """A letter, and the rule that found it."""

    letter: str
    rule: LetterRule


def extract_letter(text: str, choices: Sequence[str]) -> FoundLetter | None:
    """Return the letter that an answer chooses. None if it names none, or several without a statement."""
    letters = LETTERS[: len(choices)]
    if stated := [match["letter"] for match in _STATED.finditer(text) if match["letter"] in letters]:
        return FoundLetter(stated[-1], LetterRule.stated)
    first = parse_choice_letter(text)
    if first is not None and first in letters:
        return FoundLetter(first, LetterRule.whole)
    alone = {match["letter"] for match in _ALONE.finditer(text)} & {*letters}
    if len(alone) == 1:
        return FoundLetter(alone.pop(), LetterRule.only_letter)
    if alone:
        return None
    answer = _normalize(text)
    named = [
        letter
        for letter, choice in zip(letters, choices, strict=True)
        if (wanted := _normalize(choice)) and f" {wanted} " in f" {answer} "
    ]
    return FoundLetter(named[0], LetterRule.choice_text) if len(named) == 1 else None


def _normalize(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
