"""What needles are hidden in: noise, the texts that ship, or the user's own file, as units with
their tokens."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from random import Random

from runner.config.choices import CONF
from runner.datasets.long_texts import DOCUMENTS, kind_of_text, long_text
from runner_base import ConfigError, DataError, read_text, unknown
from runner_base.texts import read_json_lines

# those that ship, whatever a folder of the user's own names so
TEXTS = CONF / "dataset" / "texts.jsonl"
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
CATEGORIES: dict[str, str | None] = {"texts": None, "prose": "long", "languages": "language", "code": "code"}
CHRONICLE = "chronicle"  # synthetic, and so long that it is not repeated
NAMES = ("noise", *CATEGORIES, CHRONICLE)
# A sentence with the space behind it, or the rest of a line; no unit is longer than MOST characters
UNIT = re.compile(r".+?(?:[.!?…]+[\"'”»)]*(?: +|\n+)|[。！？]+[”」]*\n*|\n+|$)", re.DOTALL)
MOST = 400
MIN_UNITS = 100
CHARACTERS_A_TOKEN = 8  # more than a token of nearly any text has on average: no more is read


@dataclass(frozen=True)
class Filler:
    """A text in units, which is repeated as often as needed; `tokens` are those of each unit."""

    units: Sequence[str]
    tokens: Sequence[int]

    @cached_property
    def _ends(self) -> list[int]:
        """The tokens of the first units: none, one, two …"""
        return [0, *accumulate(self.tokens)]

    def tokens_of(self, size: int) -> int:
        """Return the tokens of the first units."""
        rounds, rest = divmod(size, len(self.units))
        return rounds * self._ends[-1] + self._ends[rest]

    def size_of(self, tokens: int) -> int:
        """Return how many units have about so many tokens."""
        rounds, rest = divmod(tokens, max(1, self._ends[-1]))
        return rounds * len(self.units) + bisect_left(self._ends, rest)

    def boundary(self, size: int, depth: float) -> int:
        """Return the end of a unit that is nearest to a depth, in tokens."""
        wanted = depth * self.tokens_of(size)
        after = bisect_left(range(size), wanted, key=self.tokens_of)
        return min((max(0, after - 1), after), key=lambda end: abs(self.tokens_of(end) - wanted))

    def text(self, begin: int, end: int) -> str:
        """Return some units as one text."""
        return "".join(self.units[at % len(self.units)] for at in range(begin, end))

    def separator(self, end: int) -> str:
        """Return what stands between a needle and the unit that follows it: as between the units
        before."""
        before = self.units[(end - 1) % len(self.units)]
        return "\n" if before.endswith("\n") else " "

    def __contains__(self, text: str) -> bool:
        """Whether a text stands in it, so that it would be no needle."""
        return text in self._whole

    @cached_property
    def _whole(self) -> str:
        return "".join(self.units)


def read_filler(name: str, most_tokens: int) -> list[str]:
    """Return the units of task.filler: a name, or a file of which no more is read than a text can
    need."""
    if name == "noise":
        return _units(f"{NOISE}\n")
    if name in CATEGORIES:
        return [unit for text in _texts(CATEGORIES[name]) for unit in _units(f"{text.strip()}\n\n")]
    if name == CHRONICLE:
        return _units(_chronicle(most_tokens * CHARACTERS_A_TOKEN))
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"no such file, and {unknown('filler', name, NAMES)}",
            key="task.filler",
            value=name,
            code="unknown_choice",
        )
    text = read_text(path, f"task.filler={name}").removeprefix("\ufeff").strip()
    if not text:
        raise DataError(f"{path} holds no text", key="task.filler", value=name, code="empty")
    return _units(f"{text[: most_tokens * CHARACTERS_A_TOKEN]}\n\n")


def draw_haystack(filler: Filler, text: int, seed: int) -> Filler:
    """Return the filler of a haystack; the first one begins where the filler does.

    Others begin at a line drawn at random from the whole filler. A filler of less than MIN_UNITS units has too few
    beginnings, so its units are shuffled.
    """
    if text == 0:
        return filler
    random, count = Random(f"{seed}/haystack/{text}"), len(filler.units)
    if count < MIN_UNITS:
        order = random.sample(range(count), count)
    else:
        lines = [at for at in range(1, count) if filler.units[at - 1].endswith("\n")]
        start = random.choice(lines if len(lines) >= MIN_UNITS else range(1, count))
        order = [*range(start, count), *range(start)]
    return Filler([filler.units[at] for at in order], [filler.tokens[at] for at in order])


def units_sha256(units: Sequence[str]) -> str:
    """Fingerprint of a filler."""
    return hashlib.sha256(json.dumps(units, ensure_ascii=False).encode()).hexdigest()


def measured(units: Sequence[str], count: Callable[[Sequence[str]], list[int]]) -> Filler:
    """Return a filler with the tokens of each unit, as `count` counts those of plain texts."""
    empty, *tokens = count(["", *units])
    return Filler(units, [max(1, tokens_of_unit - empty) for tokens_of_unit in tokens])


def _texts(category: str | None) -> list[str]:
    """Return the texts that ship, all or those of one category."""
    rows = [row for _, row in read_json_lines(TEXTS)]
    return [row["text"] for row in rows if category in (None, row["category"])]


def _chronicle(characters: int) -> str:
    """Return synthetic chronicles, one after another, until they have so many characters or there
    are no more."""
    texts: list[str] = []
    for index in range(DOCUMENTS):
        if sum(map(len, texts)) >= characters:
            break
        if kind_of_text(index) == "prose":
            texts.append(f"{long_text(index).strip()}\n\n")
    return "".join(texts)[:characters]


def _units(text: str) -> list[str]:
    """Cut a text into sentences and lines, and long ones between words."""
    found = []
    for unit in UNIT.findall(text):
        while len(unit) > MOST:
            end = unit.rfind(" ", 1, MOST) + 1 or MOST
            found.append(unit[:end])
            unit = unit[end:]
        found.append(unit)
    return found
