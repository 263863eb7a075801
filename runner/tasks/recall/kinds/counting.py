"""Something that happens a few times in a text, and something similar that does not count: how
often was it?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from runner.tasks.recall.cases import Asked, Case, Form, Recipe, hidden, pair

EVENT = "The bell of the {name} rang."
BEFORE = (
    "Bells ring in the following text. Count how often each of them rings. I will ask you "
    "about one of them afterwards."
)
QUESTION = (
    "How many times did the bell of the {name} ring in the provided text? End with '#### ' and the number."
)
BEGINNING = "The number of times is ####"
FEWEST, MOST = 2, 9


def count(recipe: Recipe) -> Iterator[Case]:
    """Draw how often the asked bell rings, and another one."""
    for number in recipe.numbers:
        random = recipe.random(number)
        asked, other = random.sample([pair(random) for _ in range(20)], 2)
        while other == asked:
            other = pair(random)
        times = random.randint(FEWEST, MOST)
        events = [EVENT.format(name=asked)] * times + [EVENT.format(name=other)] * random.randint(
            FEWEST, MOST
        )
        needles = [(random.random(), event) for event in events]
        yield Case(recipe.kind, number, None, partial(_asked, recipe, needles, asked, times))


def _asked(recipe: Recipe, needles: list[tuple[float, str]], name: str, times: int, size: int) -> Asked:
    """Return the case with so many units of filler."""
    context = hidden(recipe.filler, size, needles)
    return Asked(BEFORE, context, QUESTION.format(name=name), BEGINNING, (str(times),), Form.total)
