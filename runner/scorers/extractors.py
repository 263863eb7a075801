"""Extractors, which find the answer in a text. EXTRACTORS maps each name to a function.

`strict` and `flexible` are the two filters of lm-evaluation-harness's gsm8k task, with these
differences: a number is compared as a number (18.00 is 18), and notations that its patterns
miss or misread are read: currencies, fractions, scientific notation, other scripts.
tests/scorers/test_lm_eval.py compares the two, and gives the reason for each difference.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from runner.config.extractors import Extractor


class Notation(Protocol):
    """Interface of the modules numbers.py and letters.py, which define the patterns of answers."""

    MARKED: re.Pattern[str]  # an answer behind ####
    SAID: re.Pattern[str]  # an answer behind `answer is`
    WITHIN: re.Pattern[str]  # an answer anywhere in a text

    def normalize_text(self, text: str) -> str:
        """Normalize a text before the patterns are matched."""
        ...

    def to_canonical_form(self, match: re.Match[str]) -> str:
        """Return a matched answer in canonical form, for comparison as a string."""
        ...


Match = re.Match[str] | None


def find_answer_after_mark(text: str, notation: Notation) -> Match:
    """Find the first answer after the marker ####."""
    return notation.MARKED.search(text)


def find_last_answer(text: str, notation: Notation) -> Match:
    return last_match_or_none(notation.WITHIN.finditer(text))


def find_answer_in_last_box(text: str, notation: Notation) -> Match:
    return last_match_or_none(notation.WITHIN.finditer(extract_last_boxed_text(text)))


def find_after_answer_is(text: str, notation: Notation) -> Match:
    """Find the last answer after the words `answer is`."""
    return last_match_or_none(notation.SAID.finditer(text))


EXTRACTORS: dict[Extractor, Callable[[str, Notation], Match]] = {
    Extractor.strict: find_answer_after_mark,
    Extractor.flexible: find_last_answer,
    Extractor.boxed: find_answer_in_last_box,
    Extractor.the_answer_is: find_after_answer_is,
}


def extract_by_all_extractors(text: str, notation: Notation) -> dict[Extractor, str | None]:
    """Return the canonical answer that each extractor finds, or None where an extractor finds nothing."""
    readable = notation.normalize_text(text)
    matches = {extractor: find(readable, notation) for extractor, find in EXTRACTORS.items()}
    return {
        extractor: notation.to_canonical_form(match) if match else None
        for extractor, match in matches.items()
    }


def extract_canonical_answer(text: str, notation: Notation, extractor: Extractor) -> str | None:
    """Return the canonical answer that the extractor finds, or None."""
    match = EXTRACTORS[extractor](notation.normalize_text(text), notation)
    return notation.to_canonical_form(match) if match else None


def last_match_or_none(matches: Iterable[re.Match[str]]) -> Match:
    newest = deque(matches, maxlen=1)
    return newest[0] if newest else None


def extract_last_boxed_text(text: str) -> str:
    """Return the content of the last LaTeX box in a text. Empty if the box is missing or not closed."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    if start < len("\\boxed{"):
        return ""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[start : brace.start()]
    return ""
