"""An answer that is the letter of a choice: found by the same rules as a number."""

from __future__ import annotations

import re

from runner.config.task import Extractor
from runner.scorers.finding import last, last_box

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GLUE = r"(?:\\f?boxed\{|\\text\{|[\s*_`$\\(\[{:=\"'])*"  # before the letter: **B**, (B), \text{B}
_LETTER = r"(?P<letter>[A-Z])(?![A-Za-z0-9_'])"
_STRICT = re.compile(rf"\#\#\#\#{_GLUE}{_LETTER}")
_THE_ANSWER_IS = re.compile(rf"\b(?i:answer\s+is){_GLUE}{_LETTER}")
# Amid a text, "A pen" and "I have" hold words and no letters.
_WITHIN = re.compile(rf"(?<![A-Za-z0-9_']){_LETTER}(?!(?<=[AI])\s+[a-z])")
_ALONE = re.compile(r"\(?(?P<letter>[A-Za-z])[).:]?")


def gold_letter(answer: str, after: str | None = None) -> str | None:
    """Return the letter behind the last mark of a worked answer, or of an answer that is nothing else; None without."""
    mark = "####" if after is None else after
    if mark in answer:
        found = re.compile(rf"{_GLUE}{_LETTER}").match(answer.rpartition(mark)[2])
    else:
        found = _ALONE.fullmatch(answer.strip()) if after is None else None
    return found["letter"].upper() if found else None


def extract_letters(text: str) -> dict[Extractor, str | None]:
    """Return what each rule finds: the first after ####, or the last of the text, in \\boxed{}, after `answer is`."""
    found = {
        Extractor.strict: _STRICT.search(text),
        Extractor.flexible: last(_WITHIN.finditer(text)),
        Extractor.boxed: last(_WITHIN.finditer(last_box(text))),
        Extractor.the_answer_is: last(_THE_ANSWER_IS.finditer(text)),
    }
    return {extractor: match["letter"] if match else None for extractor, match in found.items()}
