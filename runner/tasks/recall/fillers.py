"""Filler texts in which needles are hidden: noise, installed texts, or the user's file."""

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
from runner.datasets.long_texts import DOCUMENTS, generate_synthetic_text, get_text_category
from runner_base import ConfigError, DataError, format_unknown_choice_message, read_text
from runner_base.texts import iter_json_lines

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
    """Filler text, split into units that repeat if the text is too short. `tokens` has the token count
    of each unit.
    """

    units: Sequence[str]
    tokens: Sequence[int]

    @cached_property
    def _cumulative_tokens(self) -> list[int]:
        """Total token counts of the first 0, 1, 2 … units."""
        return [0, *accumulate(self.tokens)]

    def count_tokens(self, num_units: int) -> int:
        """Return the number of tokens in the first `num_units` units."""
        rounds, rest = divmod(num_units, len(self.units))
        return rounds * self._cumulative_tokens[-1] + self._cumulative_tokens[rest]

    def count_units_for_tokens(self, tokens: int) -> int:
        rounds, rest = divmod(tokens, max(1, self._cumulative_tokens[-1]))
        return rounds * len(self.units) + bisect_left(self._cumulative_tokens, rest)

    def count_filler_units_before_depth(self, num_units: int, depth: float) -> int:
        """Return the number of filler units before `depth`, from 0 (beginning of the text) to 1 (end).
        Depths are measured in tokens.
        """
        wanted = depth * self.count_tokens(num_units)
        after = bisect_left(range(num_units), wanted, key=self.count_tokens)
        return min((max(0, after - 1), after), key=lambda end: abs(self.count_tokens(end) - wanted))

    def join_units(self, begin: int, end: int) -> str:
        """Return the units from `begin` (inclusive) to `end` (exclusive) as one text."""
        return "".join(self.units[at % len(self.units)] for at in range(begin, end))

    def get_separator_after_needle(self, unit_end: int) -> str:
        """Return the separator between a unit's end and a needle: a line break or a space."""
        before = self.units[(unit_end - 1) % len(self.units)]
        return "\n" if before.endswith("\n") else " "

    def __contains__(self, text: str) -> bool:
        """Return whether the filler contains the text, so that it cannot serve as a needle."""
        return text in self._joined_units

    @cached_property
    def _joined_units(self) -> str:
        return "".join(self.units)


def read_filler_units(filler_name: str, max_tokens: int) -> list[str]:
    """Return the units of the configured filler text, truncated to about `max_tokens` tokens."""
    if filler_name == "noise":
        return _split_text_into_filler_units(f"{NOISE}\n")
    if filler_name in CATEGORIES:
        return [
            unit
            for text in _read_installed_texts(CATEGORIES[filler_name])
            for unit in _split_text_into_filler_units(f"{text.strip()}\n\n")
        ]
    if filler_name == CHRONICLE:
        return _split_text_into_filler_units(_generate_synthetic_prose(max_tokens * CHARACTERS_A_TOKEN))
    path = Path(filler_name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"no such file, and {format_unknown_choice_message('filler', filler_name, NAMES)}",
            key="task.filler",
            value=filler_name,
            code="unknown_choice",
        )
    text = read_text(path, f"task.filler={filler_name}").removeprefix("\ufeff").strip()
    if not text:
        raise DataError(f"{path} holds no text", key="task.filler", value=filler_name, code="empty")
    return _split_text_into_filler_units(f"{text[: max_tokens * CHARACTERS_A_TOKEN]}\n\n")


def vary_filler_for_haystack(filler: Filler, haystack_number: int, seed: int) -> Filler:
    """Return the filler of a haystack: the same units, but starting at a random line. Haystack 0 is not
    changed.

    Others begin at a line drawn at random from the whole filler. A filler of less than MIN_UNITS
    units has too few beginnings, so its units are shuffled.
    """
    if haystack_number == 0:
        return filler
    random, count = Random(f"{seed}/haystack/{haystack_number}"), len(filler.units)
    if count < MIN_UNITS:
        order = random.sample(range(count), count)
    else:
        lines = [at for at in range(1, count) if filler.units[at - 1].endswith("\n")]
        start = random.choice(lines if len(lines) >= MIN_UNITS else range(1, count))
        order = [*range(start, count), *range(start)]
    return Filler([filler.units[at] for at in order], [filler.tokens[at] for at in order])


def hash_units(units: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(units, ensure_ascii=False).encode()).hexdigest()


def build_filler(units: Sequence[str], count_tokens: Callable[[Sequence[str]], list[int]]) -> Filler:
    """Build a filler from text units, and count their tokens with `count_tokens`."""
    empty, *tokens = count_tokens(["", *units])
    return Filler(units, [max(1, tokens_of_unit - empty) for tokens_of_unit in tokens])


def _read_installed_texts(category: str | None) -> list[str]:
    rows = [row for _, row in iter_json_lines(TEXTS)]
    return [row["text"] for row in rows if category in (None, row["category"])]


def _generate_synthetic_prose(num_characters: int) -> str:
    """Return `num_characters` characters of synthetic chronicles, or all chronicles if they have fewer."""
    texts: list[str] = []
    for index in range(DOCUMENTS):
        if sum(map(len, texts)) >= num_characters:
            break
        if get_text_category(index) == "prose":
            texts.append(f"{generate_synthetic_text(index).strip()}\n\n")
    return "".join(texts)[:num_characters]


def _split_text_into_filler_units(text: str) -> list[str]:
    """Split a text into sentences and lines, and split long sentences between words."""
    found = []
    for unit in UNIT.findall(text):
        while len(unit) > MOST:
            end = unit.rfind(" ", 1, MOST) + 1 or MOST
            found.append(unit[:end])
            unit = unit[end:]
        found.append(unit)
    return found
