"""Enums for answer extraction: extraction rules, and types of gold answers."""

from __future__ import annotations

from enum import StrEnum


class Extractor(StrEnum):
    """Rule that extracts the answer: after ####, the last number, in a LaTeX box, after `The answer
    is`, or math.
    """

    strict = "strict"
    flexible = "flexible"
    boxed = "boxed"
    the_answer_is = "the_answer_is"
    math = "math"  # the answer is a mathematical expression, and no other rule reads it


OF_NUMBERS = tuple(each for each in Extractor if each is not Extractor.math)


class GoldKind(StrEnum):
    """Type of the gold answers: number, letter of an answer choice, or mathematical expression."""

    number = "number"
    letter = "letter"
    expression = "expression"
