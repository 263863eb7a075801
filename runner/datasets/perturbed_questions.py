"""Generates perturbed word problems: the same stories with other numbers and known right answers.

A model that has memorized a question solves it, but not its perturbed version. The embedded
generator tells a story with other numbers. A question of a data set can be perturbed if its
worked answer shows how it is solved: GSM8K's do, in annotations such as `<<48/2=24>>`. Their
chain is computed again from other numbers, but only if all of it is understood: from the old
numbers it must give exactly the gold answer, and each number in it must have one clear source:
the question, a word, an earlier result or a common constant. Results that were whole, or above
zero, stay so. What the words of a question imply besides (nobody has half a child, some are
fewer than all) is not understood: a perturbed question may be an odd story.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from random import Random

from runner.config.questions import EMBEDDED
from runner.datasets.items import Item
from runner.datasets.word_problems import Split, generate_perturbed_problem
from runner.scorers import to_canonical_number

_STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_LITERAL = re.compile(r"\d+(?:\.\d+)?|\.\d+")
# Numbers that stand alone: not those of dates, times, fractions, ordinals or names.
_STATED = re.compile(r"(?<![\w.,/:-])\$?(\d{1,3}(?:,\d{3})+|\d+)(?![\w/:%-]|[.,]\d)")
# of a week
_BOUNDED = re.compile(r"(\d+) (?:days|hours|months|minutes|seconds) (?:a|an|per|each|every|in a|of the) ")
_ANY_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_COUNTED = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_WORDS = {word: number for number, word in enumerate(_COUNTED.split())}
_WORDS |= {
    "once": 1,
    "a": 1,
    "an": 1,
    "another": 1,
    "twice": 2,
    "double": 2,
    "doubled": 2,
    "half": 2,
    "pair": 2,
}
_WORDS |= {
    "triple": 3,
    "thrice": 3,
    "third": 3,
    "thirds": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "dozen": 12,
}
_WORDS |= {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
    "hundred": 100,
}
CONSTANTS = frozenset(map(Fraction, (1, 2, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)))
SPREAD, TRIES = 0.4, 24  # how far a number may move, as a share of itself; how many moves are tried
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class CannotPerturb(ValueError):
    """Error for a word problem whose numbers cannot be replaced, because its worked answer is not a
    clear chain of calculations.
    """


@dataclass(frozen=True)
class WorkedStep:
    """One calculation in a worked answer: an arithmetic expression and its result."""

    form: str
    literals: tuple[Fraction, ...]
    result: Fraction

    def evaluate(self, values: list[Fraction]) -> Fraction:
        try:
            tree = ast.parse(self.form, mode="eval").body
            return _evaluate_arithmetic(tree, values)
        except (SyntaxError, ZeroDivisionError, RecursionError) as error:
            raise CannotPerturb(f"{self.form} is not arithmetic") from error


def perturb_questions(data: str, split: str, items: list[Item]) -> dict[int, Item]:
    return {item.number: made for item in items if (made := perturb_question(data, split, item))}


@lru_cache(maxsize=4096)  # a grid asks for the same ones again and again
def perturb_question(data: str, split: str, item: Item) -> Item | None:
    """Replace the numbers of a word problem. Returns None if this is impossible.

    The replacement depends only on the question.
    """
    if data == EMBEDDED:
        other = generate_perturbed_problem(Split(split), item.position)
        is_same_story = _STATED.sub("#", other.question) == _STATED.sub("#", item.question)
        return Item(other.question, other.answer, to_canonical_number(other.gold)) if is_same_story else None
    try:
        return _replace_question_numbers(item)
    except CannotPerturb:
        return None


def _replace_question_numbers(item: Item) -> Item:
    steps = list(_parse_steps(item.answer))
    if not steps or steps[-1].result != Fraction(item.gold):
        raise CannotPerturb("the last worked step does not give the gold answer")
    stated = [Fraction(found[1].replace(",", "")) for found in _STATED.finditer(item.question)]
    movable = _find_replaceable_numbers(item.question, steps, stated)
    values = {number: number for number in stated}
    if _recompute_worked_step_results(steps, values, _find_stated_numbers(item.question)) != [
        step.result for step in steps
    ]:
        raise CannotPerturb("the worked steps cannot be recomputed from the question's numbers")
    random = Random(item.question)
    for number in movable:
        for _ in range(TRIES):
            moved = values | {number: _draw_similar_number(random, number)}
            if moved[number] != number and _has_plausible_results(steps, moved, item.question):
                values = moved
                break
    gold = _recompute_worked_step_results(steps, values, _find_stated_numbers(item.question))[-1]
    if gold == steps[-1].result:
        raise CannotPerturb("no replaced numbers lead to a different, plausible answer")
    written = to_canonical_number(str(gold) if gold.denominator == 1 else f"{float(gold):f}")
    question = _STATED.sub(lambda found: _format_replacement_number(found, values), item.question)
    return Item(question, f"#### {written}", written)


def _parse_steps(answer: str) -> Iterator[WorkedStep]:
    for expression, result in _STEP.findall(answer):
        plain = expression.replace(",", "").replace("$", "").replace(" ", "").lstrip("+")
        literals = [Fraction(found) for found in _LITERAL.findall(plain)]
        places = iter(range(len(literals)))
        form = _LITERAL.sub(lambda _: f"v{next(places)}", plain)  # noqa: B023 - used at once
        try:
            step = WorkedStep(
                form, tuple(literals), Fraction(result.replace(",", "").replace("$", "").strip())
            )
        except (ValueError, ZeroDivisionError) as error:
            raise CannotPerturb(f"{result} is no number") from error
        if step.evaluate(literals) != step.result:
            raise CannotPerturb(f"{expression} is not {result}")
        yield step


def _evaluate_arithmetic(node: ast.expr, values: list[Fraction]) -> Fraction:
    match node:
        case ast.BinOp(left, kind, right) if type(kind) in _OPERATORS:
            return _OPERATORS[type(kind)](
                _evaluate_arithmetic(left, values), _evaluate_arithmetic(right, values)
            )
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluate_arithmetic(operand, values)
        case ast.Name(name) if name[1:].isdigit():
            return values[int(name[1:])]
    raise CannotPerturb(f"{ast.unparse(node)} is not arithmetic")


def _find_stated_numbers(question: str) -> set[Fraction]:
    """Return the numbers that a question states in digits or words, with fractions derived from them
    and common constants.
    """
    found = {Fraction(text.replace(",", "").rstrip(".")) for text in _ANY_NUMBER.findall(question)}
    found |= {Fraction(_WORDS[word]) for word in re.findall("[a-z]+", question.lower()) if word in _WORDS}
    percents = {Fraction(text) for text in re.findall(r"(\d+(?:\.\d+)?)\s?%", question)}
    shares = {part for percent in percents for part in (percent / 100, 1 - percent / 100, 1 + percent / 100)}
    halves = {Fraction(1, 2), Fraction(1, 4), Fraction(3, 4), Fraction(3, 2)}
    return found | shares | halves | CONSTANTS


def _find_replaceable_numbers(
    question: str, steps: list[WorkedStep], stated_numbers: list[Fraction]
) -> list[Fraction]:
    """Return the numbers of a question whose role in the calculation is unambiguous, so that they can
    be replaced.

    Such a number occurs once in the text, is used in a worked step, and has no other meaning.
    """
    spelled = {Fraction(_WORDS[word]) for word in re.findall("[a-z]+", question.lower()) if word in _WORDS}
    every = [Fraction(text.replace(",", "").rstrip(".")) for text in _ANY_NUMBER.findall(question)]
    used = [literal for step in steps for literal in step.literals]
    results = {step.result for step in steps}
    bounded = {Fraction(text) for text in _BOUNDED.findall(question)}
    return [
        number
        for number in stated_numbers
        if every.count(number) == 1
        and number in used
        and number not in spelled | results | bounded | CONSTANTS
        and not 1900 <= number <= 2100  # a year
    ]


def _draw_similar_number(random: Random, number: Fraction) -> Fraction:
    grain = next(grain for grain in (1000, 100, 50, 10, 5, 1) if number % grain == 0 and number > grain)
    reach = max(1, int(number / grain * Fraction(SPREAD)))
    return number + grain * random.choice([step for step in range(-reach, reach + 1) if step])


def _has_plausible_results(steps: list[WorkedStep], values: dict[Fraction, Fraction], question: str) -> bool:
    """Return whether the results after a replacement are as plausible as the original results.

    Whole results must stay whole, positive results positive, and results below 1 must stay below
    1.
    """
    if min(values.values()) < 1 or len(set(values.values())) < len(values):
        return False
    try:
        results = _recompute_worked_step_results(steps, values, _find_stated_numbers(question))
    except CannotPerturb:
        return False
    old = [step.result for step in steps]
    return all(
        (new.denominator == 1 or before.denominator > 1)
        and (new > 0 or before <= 0)
        and (new > 1) == (before > 1)  # a share stays a share
        and (100 * new).denominator == 1
        for new, before in zip(results, old, strict=True)
    )


def _recompute_worked_step_results(
    steps: list[WorkedStep], values: dict[Fraction, Fraction], stated_numbers: set[Fraction]
) -> list[Fraction]:
    """Recompute all worked steps with new numbers. Raises CannotPerturb if the origin of a number is
    ambiguous.

    Every number must come either from the question or from one earlier step.
    """
    results: list[Fraction] = []
    for step in steps:
        now: list[Fraction] = []
        for literal in step.literals:
            earlier = {new for before, new in zip(steps, results, strict=False) if before.result == literal}
            meanings = earlier | (
                {values.get(literal, literal)} if literal in stated_numbers or literal in values else set()
            )
            if len(meanings) != 1:
                raise CannotPerturb(f"the meaning of {literal} is unclear")
            now += meanings
        results.append(step.evaluate(now))
    return results


def _format_replacement_number(matched_number: re.Match[str], values: dict[Fraction, Fraction]) -> str:
    """Return a new number in the notation of the number that it replaces."""
    old = matched_number[1]
    new = int(values[Fraction(old.replace(",", ""))])
    return matched_number[0].replace(old, f"{new:,}" if "," in old else str(new))
