"""RULER's variable tracking, as lm-evaluation-harness 0.4.13 makes it, string for string of the
same draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from random import Random
from string import ascii_uppercase

from runner.tasks.recall.cases import Asked, Case, Form, Recipe

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
BEFORE = "Memorize and track the chain(s) of variable assignment hidden in the following text."
QUESTION = "Question: Find all variables that are assigned the value {value} in the text above."
# the misspelling is RULER's
BEGINNING = (
    "Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assgined the "
    "value {value}, they are: "
)
HOPS = 4
LETTERS, LETTERS_OF_EXAMPLE = 5, 3
EXAMPLE_SIZE = 5  # lines of noise in the worked example: the least that lm-evaluation-harness takes
Draw = Callable[[int, int], int]  # of a number from the first one on, below the second


def tracking(recipe: Recipe) -> Iterator[Case]:
    """Draw a chain of variables, with a worked example before the text."""
    for number in range(recipe.cases):
        yield Case(recipe.kind, number, None, partial(_asked, recipe, number), HOPS + 2, has_own_size=True)


def _asked(recipe: Recipe, number: int, size: int) -> Asked:
    """Return the case with so many lines of noise."""
    random = recipe.random(number)
    example = example_by(random, random.randrange, EXAMPLE_SIZE)
    return asked_by(random, random.randrange, size, example)


def example_by(random: Random, draw: Draw, size: int) -> str:
    """Return a worked example, whose variables have other names in each case."""
    context, value, names = _text(random, draw, size, LETTERS_OF_EXAMPLE)
    beginning = BEGINNING.format(count=HOPS + 1, value=value)
    question = QUESTION.format(value=value)
    return f"{BEFORE}\n\n{context}\n{question} {beginning} {' '.join(names)}\n\n"


def asked_by(random: Random, draw: Draw, size: int, example: str) -> Asked:
    """Return what these random numbers make of so many lines of noise."""
    context, value, names = _text(random, draw, size, LETTERS)
    for name in example.partition(BEGINNING[-10:])[2].split():
        example = example.replace(name, "".join(random.choices(ascii_uppercase, k=len(name))))
    beginning = BEGINNING.format(count=HOPS + 1, value=value).strip()
    before = f"{example}\n\n{BEFORE}\n"
    return Asked(
        before, context, QUESTION.format(value=value), beginning, tuple(names), Form.known, frozenset(names)
    )


def _text(random: Random, draw: Draw, size: int, letters: int) -> tuple[str, str, list[str]]:
    """Return noise with a chain of assignments, its value, and its variables."""
    names = ["".join(random.choices(ascii_uppercase, k=letters)) for _ in range(HOPS + 1)]
    while len(set(names)) < HOPS + 1:
        names.append("".join(random.choices(ascii_uppercase, k=letters)))
    names = [*dict.fromkeys(names)]
    value = str(draw(10_000, 99_999))
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {later} = VAR {earlier} " for earlier, later in pairwise(names)]
    sentences = [NOISE] * size
    if len(sentences) <= len(chain):
        pieces = [piece for line in sentences for piece in line.split(".")]
        sentences = [f"{piece}." if piece.strip() else piece for piece in pieces]
    places = sorted(random.sample(range(len(sentences)), len(chain)))
    for at, (place, assignment) in enumerate(zip(places, chain, strict=True)):
        sentences.insert(place + at, assignment)
    return " ".join(sentences).replace(". \n", ".\n"), value, names
