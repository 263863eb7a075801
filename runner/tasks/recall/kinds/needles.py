"""Needles: names with values, hidden in filler. The wording is RULER's (arXiv 2404.06654)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

from runner.tasks.recall.cases import Asked, Case, Form, Recipe, hidden, pair, spread
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS

NEEDLE = "One of the special magic {values} for {key} is: {value}."
BEFORE = (
    "Some special magic {values} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {values} afterwards."
)
QUESTION = "What are all the special magic {values} for {query} mentioned in the provided text?"
BEGINNING = "The special magic {values} for {query} mentioned in the provided text are"
BEFORE_ONE = (
    "A special magic {value} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{value} afterwards."
)
QUESTION_OF_ONE = "What is the special magic {value} for {query} mentioned in the provided text?"
BEGINNING_OF_ONE = "The special magic {value} for {query} mentioned in the provided text is"
FORMS = {"numbers": Form.number, "words": Form.pair, "uuids": Form.uuid}
DIGITS = 7
Needle = tuple[float, str, str]  # depth, key, value


def single(recipe: Recipe) -> Iterator[Case]:
    """Draw one needle for each depth."""
    for depth in recipe.depths:
        for number in recipe.numbers:
            random = recipe.random(depth, number)
            ((key, value),) = _drawn(random, recipe, 1)
            yield Case(recipe.kind, number, depth, partial(_asked, recipe, [(depth, key, value)], [key]))


def several_asked_one(recipe: Recipe) -> Iterator[Case]:
    """Draw a needle for each depth, all in one text, and ask for each of them."""
    for number in recipe.numbers:
        drawn = _drawn(recipe.random(number), recipe, len(recipe.depths))
        needles = [(depth, key, value) for depth, (key, value) in zip(recipe.depths, drawn, strict=True)]
        for depth, key, _ in needles:
            yield Case(recipe.kind, number, depth, partial(_asked, recipe, needles, [key]))


def several_asked_all(recipe: Recipe) -> Iterator[Case]:
    """Draw some needles and ask for all of them."""
    for number in recipe.numbers:
        drawn = _drawn(recipe.random(number), recipe, recipe.needles)
        needles = [
            (depth, key, value) for depth, (key, value) in zip(spread(recipe.needles), drawn, strict=True)
        ]
        yield Case(
            recipe.kind, number, None, partial(_asked, recipe, needles, [key for _, key, _ in needles])
        )


def multikey(recipe: Recipe) -> Iterator[Case]:
    """Draw one needle for each depth, and around it others that share a word with its name."""
    for depth in recipe.depths:
        for number in recipe.numbers:
            random = recipe.random(depth, number)
            ((key, value),) = _drawn(random, recipe, 1)
            others = _names_like(random, key, recipe.needles - 1)
            values = _values(random, recipe, len(others), {value})
            needles = [(depth, key, value)]
            needles += [(random.random(), other, wrong) for other, wrong in zip(others, values, strict=True)]
            yield Case(recipe.kind, number, depth, partial(_asked, recipe, needles, [key]))


def value_of(random: Random, values: str) -> str:
    """Draw a value, as RULER does."""
    if values == "numbers":
        return str(random.randint(10 ** (DIGITS - 1), 10**DIGITS - 1))
    if values == "uuids":
        return str(uuid.UUID(int=random.getrandbits(128), version=4))
    return pair(random)


def worded(values: str, keys: Sequence[str], is_one: bool) -> tuple[str, str, str]:
    """Return what stands before the text, the question, and the beginning of an answer."""
    query = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"
    if is_one:
        value = values.removesuffix("s")
        return (
            BEFORE_ONE.format(value=value),
            QUESTION_OF_ONE.format(value=value, query=query),
            BEGINNING_OF_ONE.format(value=value, query=query),
        )
    return (
        BEFORE.format(values=values),
        QUESTION.format(values=values, query=query),
        BEGINNING.format(values=values, query=query),
    )


def _asked(recipe: Recipe, needles: Sequence[Needle], keys: Sequence[str], size: int) -> Asked:
    """Return the case with so many units of filler."""
    sentences = [
        (depth, NEEDLE.format(values=recipe.values, key=key, value=value)) for depth, key, value in needles
    ]
    gold = tuple(value for _, key, value in needles if key in keys)
    before, question, beginning = worded(recipe.values, keys, len(gold) == 1)
    return Asked(
        before, hidden(recipe.filler, size, sentences), question, beginning, gold, FORMS[recipe.values]
    )


def _drawn(random: Random, recipe: Recipe, count: int) -> list[tuple[str, str]]:
    """Draw different keys, and a value for each."""
    keys: list[str] = []
    while len(keys) < count:
        key = pair(random)
        if key not in keys and key not in recipe.filler:
            keys.append(key)
    return list(zip(keys, _values(random, recipe, count, set(keys)), strict=True))


def _values(random: Random, recipe: Recipe, count: int, taken: set[str]) -> list[str]:
    """Draw different values that stand nowhere else in the text."""
    values: list[str] = []
    while len(values) < count:
        value = value_of(random, recipe.values)
        if value not in values and value not in taken and value not in recipe.filler:
            values.append(value)
    return values


def _names_like(random: Random, key: str, count: int) -> list[str]:
    """Draw names with the first or the second word of a key, by turns."""
    adjective, _, noun = key.partition("-")
    with_adjective = [f"{adjective}-{other}" for other in random.sample(NOUNS, count + 1) if other != noun]
    with_noun = [f"{other}-{noun}" for other in random.sample(ADJECTIVES, min(count + 1, len(ADJECTIVES)))]
    by_turns = [name for both in zip(with_adjective, with_noun, strict=False) for name in both if name != key]
    return [*by_turns, *with_adjective[len(with_noun) :]][:count]
