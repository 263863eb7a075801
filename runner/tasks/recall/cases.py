"""Defines recall cases: questions about facts that are hidden in a text of adjustable length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from runner.tasks.recall.fillers import Filler
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS


class ValueForm(StrEnum):
    """Form of the requested values, such as a number or a UUID."""

    number = "number"  # of as many digits as the asked ones
    pair = "pair"  # of two words, as amber-kite
    uuid = "uuid"
    known = "known"  # one of the words in the text that may be meant
    total = "total"  # the result of counting or calculating


@dataclass(frozen=True)
class RenderedCase:
    """A recall case with a text of fixed length: instructions, text with needles, and question."""

    before: str  # what the text begins with: what to look for
    context: str
    question: str
    beginning: str  # of the answer, for plain text
    gold: tuple[str, ...]  # the asked values
    form: ValueForm = ValueForm.number
    known: frozenset[str] = frozenset()  # of the form `known`: all words that could be meant

    @property
    def prompt_text(self) -> str:
        """The whole prompt as one turn: instructions, text and question."""
        return "\n".join(filter(None, (self.before, self.context, self.question)))

    @property
    def has_multiline_answer(self) -> bool:
        """Whether answers may have several lines. The last line of such an answer is judged."""
        return self.form is ValueForm.total


@dataclass(frozen=True)
class Case:
    """A recall question that can be rendered with a text of any length."""

    kind: str
    number: int  # among those of its kind and depth
    depth: float | None
    at: Callable[[int], RenderedCase]  # by its size: units of the filler, or words
    least: int = 1  # the smallest size
    most: int | None = None  # the largest one
    has_own_size: bool = False  # its text is its own, and not the filler that all cases of a length have


@dataclass(frozen=True)
class CaseSettings:
    """Settings that determine the recall cases of a job, including the random seed."""

    kind: str
    seed: int
    cases: int
    depths: Sequence[float]
    values: str  # numbers, words or uuids
    needles: int
    filler: Filler
    length: int = 0  # in tokens; only RULER's lists of words depend on it
    text: int = 0  # the haystack of these cases
    texts: int = 1  # over which the cases are spread

    @property
    def case_numbers(self) -> range:
        """Numbers of the cases whose needles are hidden in this haystack."""
        return range(self.text, self.cases, self.texts)

    def create_random(self, *names: object) -> Random:
        """Return a case's random generator, which is the same in every job with the same seed."""
        return Random("/".join(map(str, (self.seed, self.kind, *names))))


def insert_needles_into_filler(filler: Filler, num_units: int, needles: Sequence[tuple[float, str]]) -> str:
    """Return a text of `num_units` filler units with needles at depths from 0 (beginning) to 1 (end)."""
    ends = sorted(
        (filler.count_filler_units_before_depth(num_units, depth), order, needle)
        for order, (depth, needle) in enumerate(needles)
    )
    parts, at = [], 0
    for end, _, needle in ends:
        parts += [filler.join_units(at, end), needle, filler.get_separator_after_needle(end)]
        at = end
    return "".join([*parts, filler.join_units(at, num_units)]).rstrip()


def evenly_spaced_depths(count: int) -> list[float]:
    """Return `count` evenly spaced depths between 0 (beginning of the text) and 1 (end)."""
    return [(number + 0.5) / count for number in range(count)]


def random_word_pair(random: Random) -> str:
    """Draw a random adjective and noun, joined by a hyphen."""
    return f"{random.choice(ADJECTIVES)}-{random.choice(NOUNS)}"
