"""The extractors, which find the answer in a text. Each is a function, listed by name in
EXTRACTORS.

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
    """The patterns of one kind of answer. A notation is a module: numbers.py, letters.py."""

    MARKED: re.Pattern[str]  # an answer behind ####
    SAID: re.Pattern[str]  # an answer behind `answer is`
    WITHIN: re.Pattern[str]  # an answer anywhere in a text

    def normalize_text(self, text: str) -> str:
        """Return a text in the form that the patterns expect."""
        ...

    def canonical_form(self, match: re.Match[str]) -> str:
        """Return a match in canonical form, so that equal answers are equal texts."""
        ...


Match = re.Match[str] | None


def find_strict(text: str, notation: Notation) -> Match:
    """Find the first answer after ####."""
    return notation.MARKED.search(text)


def find_flexible(text: str, notation: Notation) -> Match:
    """Find the last answer of a text."""
    return last_match(notation.WITHIN.finditer(text))


def find_boxed(text: str, notation: Notation) -> Match:
    """Find the last answer in the last LaTeX box."""
    return last_match(notation.WITHIN.finditer(last_box_content(text)))


def find_after_answer_is(text: str, notation: Notation) -> Match:
    """Find the last answer after `answer is`."""
    return last_match(notation.SAID.finditer(text))


EXTRACTORS: dict[Extractor, Callable[[str, Notation], Match]] = {
    Extractor.strict: find_strict,
    Extractor.flexible: find_flexible,
    Extractor.boxed: find_boxed,
    Extractor.the_answer_is: find_after_answer_is,
}


def extract_all(text: str, notation: Notation) -> dict[Extractor, str | None]:
    """Return the answer that each extractor finds, in canonical form. None where it finds none."""
    readable = notation.normalize_text(text)
    matches = {extractor: find(readable, notation) for extractor, find in EXTRACTORS.items()}
    return {
        extractor: notation.canonical_form(match) if match else None for extractor, match in matches.items()
    }


def extract(text: str, notation: Notation, extractor: Extractor) -> str | None:
    """Return the answer that one extractor finds, in canonical form, or None."""
    match = EXTRACTORS[extractor](notation.normalize_text(text), notation)
    return notation.canonical_form(match) if match else None


def last_match(matches: Iterable[re.Match[str]]) -> Match:
    newest = deque(matches, maxlen=1)
    return newest[0] if newest else None


def last_box_content(text: str) -> str:
    """Return the content of the last LaTeX box. Empty if there is none, or if it is not closed."""
    start = text.rfind("\\boxed{") + len("\\boxed{")
    if start < len("\\boxed{"):
        return ""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return text[start : brace.start()]
    return ""
