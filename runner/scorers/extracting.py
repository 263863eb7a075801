"""The extractors: where in a text the answer stands. Each is a function, and EXTRACTORS lists them
by name.

`strict` and `flexible` are the two filters of lm-evaluation-harness's gsm8k task, with these
differences: a number is compared as a number (18.00 is 18), and notations that its patterns miss or
misread are read: currencies, fractions, scientific notation, other scripts.
tests/scorers/test_lm_eval.py compares the two, and gives the reason for each difference.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from runner.config.extractors import Extractor


class Notation(Protocol):
    """How answers of one kind are written. A notation is a module: numbers.py, letters.py."""

    MARKED: re.Pattern[str]  # an answer behind ####
    SAID: re.Pattern[str]  # an answer behind `answer is`
    WITHIN: re.Pattern[str]  # an answer anywhere in a text

    def readable(self, text: str) -> str:
        """Return a text as the patterns read it."""
        ...

    def plain(self, match: re.Match[str]) -> str:
        """Return what a pattern has found, so written that equal answers are equal texts."""
        ...


Match = re.Match[str] | None


def strict(text: str, notation: Notation) -> Match:
    """Find the first answer after ####."""
    return notation.MARKED.search(text)


def flexible(text: str, notation: Notation) -> Match:
    """Find the last answer of a text."""
    return last(notation.WITHIN.finditer(text))


def boxed(text: str, notation: Notation) -> Match:
    """Find the last answer in the last \\boxed{}."""
    return last(notation.WITHIN.finditer(last_box(text)))


def the_answer_is(text: str, notation: Notation) -> Match:
    """Find the last answer after `answer is`."""
    return last(notation.SAID.finditer(text))


EXTRACTORS: dict[Extractor, Callable[[str, Notation], Match]] = {
    Extractor.strict: strict,
    Extractor.flexible: flexible,
    Extractor.boxed: boxed,
    Extractor.the_answer_is: the_answer_is,
}


def extract_all(text: str, notation: Notation) -> dict[Extractor, str | None]:
    """Return the answer that each extractor finds, in plain form; None where it finds none."""
    readable = notation.readable(text)
    matches = {extractor: find(readable, notation) for extractor, find in EXTRACTORS.items()}
    return {extractor: notation.plain(match) if match else None for extractor, match in matches.items()}


def extract(text: str, notation: Notation, extractor: Extractor) -> str | None:
    """Return the answer that one extractor finds, in plain form, or None."""
    match = EXTRACTORS[extractor](notation.readable(text), notation)
    return notation.plain(match) if match else None


def last(matches: Iterable[re.Match[str]]) -> Match:
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
