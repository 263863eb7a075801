"""RULER's needles, string for string as lm-evaluation-harness 0.4.13 makes them from the same
random numbers and size.

Those whose haystack is an essay there have RULER's noise here, since essays are not shipped. Names
are of our words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from runner.tasks.recall.cases import Asked, Case, Recipe
from runner.tasks.recall.fillers import NOISE
from runner.tasks.recall.kinds.needles import FORMS, NEEDLE, value_of, worded
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS

ORDER_SEED = 42  # of the needles in a text, the same in all
PAIRS = sorted(f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS)


@dataclass(frozen=True)
class Niah:
    """One of RULER's tasks with needles."""

    keys: int = 1
    values_of_each: int = 1
    asked: int = 1  # keys
    in_needles: bool = False  # the haystack is made of other needles
    key_type: str = "words"
    value_type: str = "numbers"


TASKS = {
    "niah_single_1": Niah(),
    "niah_multikey_1": Niah(keys=4),
    "niah_multikey_2": Niah(in_needles=True),
    "niah_multikey_3": Niah(in_needles=True, key_type="uuids", value_type="uuids"),
    "niah_multivalue": Niah(values_of_each=4),
    "niah_multiquery": Niah(keys=4, asked=4),
}


def niah(recipe: Recipe) -> Iterator[Case]:
    """Draw the cases of one of the tasks."""
    kind = TASKS[recipe.kind]
    for number in range(recipe.cases):
        least = max(2, kind.keys * kind.values_of_each)
        yield Case(recipe.kind, number, None, partial(_asked, recipe, number, kind), least, has_own_size=True)


def _asked(recipe: Recipe, number: int, kind: Niah, size: int) -> Asked:
    """Return the case with a haystack of so many lines."""
    return asked_by(recipe.random(number), kind, size)


def asked_by(random: Random, kind: Niah, size: int, names: Sequence[str] = PAIRS) -> Asked:
    """Return what these random numbers make of a haystack of so many lines."""
    keys: list[str] = []
    values: list[list[str]] = []
    needles: list[str] = []
    for _ in range(kind.keys):
        keys.append(_key(random, kind, names, keys))
        values.append([])
        for _ in range(kind.values_of_each):
            values[-1].append(_drawn(random, kind.value_type, names))
            needles.append(NEEDLE.format(values=kind.value_type, key=keys[-1], value=values[-1][-1]))
    Random(ORDER_SEED).shuffle(needles)
    lines = [_line(random, kind, names, keys) for _ in range(size)]
    places = sorted(random.sample(range(size), len(needles)), reverse=True)
    for place, needle in zip(places, needles, strict=True):
        lines.insert(place, needle)
    asked = random.sample(range(kind.keys), kind.asked)
    gold = tuple(value for at in asked for value in values[at])
    before, question, beginning = worded(kind.value_type, [keys[at] for at in asked], len(gold) == 1)
    return Asked(before, "\n".join(lines), question, beginning, gold, FORMS[kind.value_type])


def _line(random: Random, kind: Niah, names: Sequence[str], keys: Sequence[str]) -> str:
    if not kind.in_needles:
        return NOISE
    key = _key(random, kind, names, keys)
    return NEEDLE.format(values=kind.value_type, key=key, value=_drawn(random, kind.value_type, names))


def _key(random: Random, kind: Niah, names: Sequence[str], keys: Sequence[str]) -> str:
    """Draw a key again if it is one of the asked ones, which the harness does not: it has six
    million names."""
    key = _drawn(random, kind.key_type, names)
    while key in keys:
        key = _drawn(random, kind.key_type, names)
    return key


def _drawn(random: Random, drawn_type: str, names: Sequence[str]) -> str:
    return random.choice(names) if drawn_type == "words" else value_of(random, drawn_type)
