"""A case: a question about something that is hidden in a text, whose size can be chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from runner.tasks.recall.fillers import Filler
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS


class Form(StrEnum):
    """The form of the asked values, by which they are found in an answer."""

    number = "number"  # of as many digits as the asked ones
    pair = "pair"  # of two words, as amber-kite
    uuid = "uuid"
    known = "known"  # one of the words in the text that may be meant
    total = "total"  # the result of counting or calculating


@dataclass(frozen=True)
class Asked:
    """A case at one size: the text with what is hidden in it, and the question at its end."""

    before: str  # what the text begins with: what to look for
    context: str
    question: str
    beginning: str  # of the answer, for plain text
    gold: tuple[str, ...]  # the asked values
    form: Form = Form.number
    known: frozenset[str] = frozenset()  # of the form `known`: all words that could be meant

    @property
    def text(self) -> str:
        """The whole question, as one turn."""
        return "\n".join(filter(None, (self.before, self.context, self.question)))

    @property
    def is_worked_out(self) -> bool:
        """Whether the answer has several lines, the last of which counts."""
        return self.form is Form.total


@dataclass(frozen=True)
class Case:
    """A question of a kind, for all sizes and lengths."""

    kind: str
    number: int  # among those of its kind and depth
    depth: float | None
    at: Callable[[int], Asked]  # by its size: units of the filler, or words
    least: int = 1  # the smallest size
    most: int | None = None  # the largest one
    has_own_size: bool = False  # its text is its own, and not the filler that all cases of a length have


@dataclass(frozen=True)
class Recipe:
    """What the cases of a job are drawn by."""

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
    def numbers(self) -> range:
        """The case numbers of this haystack."""
        return range(self.text, self.cases, self.texts)

    def random(self, *names: object) -> Random:
        """Return the random numbers of a case, the same in every job with this seed."""
        return Random("/".join(map(str, (self.seed, self.kind, *names))))


def hidden(filler: Filler, size: int, needles: Sequence[tuple[float, str]]) -> str:
    """Return so many units of filler with sentences at depths from 0, the beginning, to 1, the
    end."""
    ends = sorted(
        (filler.boundary(size, depth), order, needle) for order, (depth, needle) in enumerate(needles)
    )
    parts, at = [], 0
    for end, _, needle in ends:
        parts += [filler.text(at, end), needle, filler.separator(end)]
        at = end
    return "".join([*parts, filler.text(at, size)]).rstrip()


def spread(count: int) -> list[float]:
    """Return so many depths, evenly spread over a text."""
    return [(number + 0.5) / count for number in range(count)]


def pair(random: Random) -> str:
    """Draw two words."""
    return f"{random.choice(ADJECTIVES)}-{random.choice(NOUNS)}"
