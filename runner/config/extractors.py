"""How an answer is read from a text, and what a gold answer is."""

from __future__ import annotations

from enum import StrEnum


class Extractor(StrEnum):
    """Which number is the answer: after ####, the last of the text, in \\boxed{}, after `The answer
    is`; or math."""

    strict = "strict"
    flexible = "flexible"
    boxed = "boxed"
    the_answer_is = "the_answer_is"
    math = "math"  # the answer is a mathematical expression, and no other rule reads it


OF_NUMBERS = tuple(each for each in Extractor if each is not Extractor.math)


class Gold(StrEnum):
    """What a row's gold answer is: a number, the letter of a choice, or a mathematical
    expression."""

    number = "number"
    letter = "letter"
    expression = "expression"
