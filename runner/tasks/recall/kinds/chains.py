"""A chain of variables through a text, beside another one: which of them have a value?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from string import ascii_uppercase

from runner.tasks.recall.cases import Asked, Case, Form, Recipe, hidden, spread

BEFORE = "Memorize and track the chains of variable assignment hidden in the following text."
QUESTION = "Find all variables that are assigned the value {value} in the text above."
BEGINNING = "The variables that are assigned the value {value} are"
LETTERS = 5


def chain(recipe: Recipe) -> Iterator[Case]:
    """Draw two chains, each of task.needles variables, from the beginning to the end of a text."""
    for number in recipe.numbers:
        random = recipe.random(number)
        names: list[str] = []
        while len(names) < 2 * recipe.needles:
            name = "".join(random.choices(ascii_uppercase, k=LETTERS))
            if name not in names and name not in recipe.filler:
                names.append(name)
        values = random.sample(range(10_000, 100_000), 2)
        chains = [names[: recipe.needles], names[recipe.needles :]]
        sentences = [
            sentence for both in zip(*map(_assigned, chains, values), strict=True) for sentence in both
        ]
        places = spread(len(sentences))
        needles = list(zip(places, sentences, strict=True))
        yield Case(recipe.kind, number, None, partial(_asked, recipe, needles, values[0], chains[0], names))


def _assigned(names: Sequence[str], value: int) -> list[str]:
    """Return the assignments of a chain."""
    later = [f"VAR {name} = VAR {before}." for before, name in pairwise(names)]
    return [f"VAR {names[0]} = {value}.", *later]


def _asked(
    recipe: Recipe,
    needles: Sequence[tuple[float, str]],
    value: int,
    gold: Sequence[str],
    names: list[str],
    size: int,
) -> Asked:
    """Return the case with so many units of filler."""
    context = hidden(recipe.filler, size, needles)
    question, beginning = QUESTION.format(value=value), BEGINNING.format(value=value)
    return Asked(BEFORE, context, question, beginning, tuple(gold), Form.known, frozenset(names))
