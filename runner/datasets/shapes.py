"""Where a row of a data set holds its question and its answer: by the keys that are given, or those of known data sets.

The answer is a worked one that ends in `#### NUMBER`, as in GSM8K, or the number alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from runner.core.errors import few
from runner.scorers.numbers import gold_number

# GSM8K and many more · SVAMP, ASDiv · other spellings · MAWPS as published · GSM-Hard
QUESTIONS = ("question", "Body+Question", "Question", "problem", "sQuestion", "input")
# … · SVAMP, ASDiv · MultiArith · MAWPS as published · Calc-X's MAWPS, SVAMP and ASDiv · GSM-Hard
ANSWERS = ("answer", "Answer", "final_ans", "final_answer", "lSolutions", "result", "target")
UNIT = re.compile(r"\s*\([^()]*\)\s*$")  # 9 (apples), in ASDiv
MASKED = re.compile(r"\bN_\d\d\b|\bnumber\d\b")  # N_00 and number0 stand for numbers that the question lacks


@dataclass(frozen=True)
class Keys:
    """The keys of a row that the user has named; several, joined by +, make one question."""

    question: str | None = None
    answer: str | None = None

    def among(self, names: Collection[str]) -> tuple[tuple[str, ...], str]:
        """Return the keys of the question's parts, and that of the answer; ValueError where one is not there."""
        question = _first(self.question, QUESTIONS, names, "question")
        return tuple(question.split("+")), _first(self.answer, ANSWERS, names, "answer")

    def columns(self, names: Collection[str]) -> list[str]:
        """Return the names of a table's columns that are read."""
        parts, answer = self.among(names)
        return [*parts, answer]


def read_row(row: Mapping[str, Any], keys: Keys) -> tuple[str, str, str]:
    """Return question, worked answer and gold number of a row; ValueError with the reason."""
    parts, answer_key = keys.among(row)
    texts = [_text(row, key) for key in parts]
    question = texts[0] if len(texts) == 1 else " ".join(text.strip() for text in texts)
    if masked := MASKED.search(question):
        raise ValueError(
            f"the question holds {masked[0]} where a number belongs: use a copy with the numbers filled in"
        )
    answer = _answer(row, answer_key)
    gold = gold_number(answer)
    # shown before another question, an answer without its mark would teach the model to leave it out
    return question, answer if "####" in answer else f"#### {gold}", gold


def _first(given: str | None, known: Collection[str], names: Collection[str], what: str) -> str:
    """Return the first key, or group of keys, that is there."""
    for wanted in known if given is None else (given,):
        if all(key in names for key in wanted.split("+")):
            return wanted
    missing = what if given is None else next(key for key in given.split("+") if key not in names)
    raise ValueError(f"no key {missing!r}: it has {few(sorted(names), 8)}")


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` is {_short(value)} and no text")
    return value


def _answer(row: Mapping[str, Any], key: str) -> str:
    """Return the answer as text: one number in a list is that number, and a unit in brackets is left out."""
    value = row[key]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` is {_short(value)} and neither a text nor a number")
    return value if "####" in value else UNIT.sub("", value)


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:80]
