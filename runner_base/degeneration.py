"""Finds out whether a generated text has degenerated: loops, repeated word sequences, other scripts, broken characters.

All measures need the text only, so they apply to any model, tool or language.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

PROBE_CHARS = 12
MIN_PROBES = 25  # fewer than each loop has
MIN_LOOP_CHARS = 80
MIN_SHORT_LOOP_CHARS = 160  # of a unit like `</div> `, which healthy code repeats, too
SHORT_UNIT_CHARS = 12
MIN_LOOP_REPEATS = 4
LONG_UNIT_CHARS = 100
MIN_LONG_LOOP_REPEATS = 3
MIN_LETTERLESS_LOOP_CHARS = 400  # healthy tables, rules and matrices repeat characters that are no letters
NGRAM_WORDS = 4
MIN_COUNTING_REPEATS = 6
MIN_COUNTING_LETTERS = 4
NUMBER = re.compile(r"\d+")
MIN_SCRIPT_LETTERS = 8  # fewer letters of another script are a name or a quotation
SHARED_SCRIPTS = frozenset({"GREEK", "MATHEMATICAL", "MODIFIER", "FEMININE", "MASCULINE", "MICRO", "SCRIPT"})
# scripts that one language mixes
SCRIPT_GROUPS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "HALFWIDTH": "CJK"}
REPLACEMENT_CHARACTER = "\ufffd"


@dataclass(frozen=True)
class Loop:
    """A part of a text that repeats the same characters again and again."""

    start: int  # character of the text with single spaces
    period_chars: int
    repeats: float
    unit: str
    is_at_end: bool


@dataclass(frozen=True)
class Degeneration:
    """Signs of degeneration in one text."""

    loop: Loop | None
    repeated_ngram_share: float  # of all sequences of four words: those that have occurred before
    distinct_word_share: float
    has_script_change: bool
    has_broken_characters: bool
    is_empty: bool

    @property
    def is_degenerate(self) -> bool:
        """Whether the text has a loop, a change of script, broken characters or no character at all."""
        return self.loop is not None or self.has_script_change or self.has_broken_characters or self.is_empty


def measure_degeneration(text: str) -> Degeneration:
    text_words = _split_words(text)
    return Degeneration(
        loop=find_longest_text_loop(text),
        repeated_ngram_share=_compute_repeated_share(text_words),
        distinct_word_share=len(set(text_words)) / len(text_words) if text_words else 1.0,
        has_script_change=has_script_change(text),
        has_broken_characters=REPLACEMENT_CHARACTER in text,
        is_empty=not text.strip(),
    )


def find_longest_text_loop(text: str) -> Loop | None:
    """Return the longest loop of a text, which may be anywhere in it. None if the text has no loop.

    A loop may count: its units may differ in their numbers.
    """
    text = " ".join(text.split())
    return _find_exact_loop(text) or _find_loop_with_changing_numbers(text)


def find_loop_at_end(text: str) -> Loop | None:
    """Return the loop in which a text ends, as long as its units are exactly equal. None if there is none.

    A loop that counts may be a list, which ends.
    """
    loop = _find_exact_loop(" ".join(text.split()))
    return loop if loop is not None and loop.is_at_end else None


def _find_loop_with_changing_numbers(text: str) -> Loop | None:
    loop = _find_exact_loop(NUMBER.sub("0", text))
    if loop is None or loop.repeats < MIN_COUNTING_REPEATS:
        return None
    # tables of numbers are no loops
    return loop if sum(character.isalpha() for character in loop.unit) >= MIN_COUNTING_LETTERS else None


# the verdict on an answer, its signs and the start of its loop ask for the same text
@lru_cache(maxsize=1024)
def _find_exact_loop(text: str) -> Loop | None:
    loops = [
        loop
        for period in _find_likely_periods(text)
        if (loop := _create_text_loop_if_long(text, *_find_longest_periodic_part(text, period), period))
        is not None
    ]
    # of equally long ones that with the shortest unit
    return max(loops, key=lambda loop: (loop.repeats * loop.period_chars, -loop.period_chars), default=None)


def _create_text_loop_if_long(text: str, start: int, end: int, period: int) -> Loop | None:
    """Return a loop if the part of a text that has a period is long enough to be one."""
    length, repeats = end - start, (end - start + 1) / period  # without the space after the last unit
    unit = text[start : start + period]
    if not any(character.isalpha() for character in unit):
        is_long = length >= MIN_LETTERLESS_LOOP_CHARS
    elif period >= LONG_UNIT_CHARS:
        is_long = True
    else:
        is_long = length >= (MIN_SHORT_LOOP_CHARS if period < SHORT_UNIT_CHARS else MIN_LOOP_CHARS)
    is_repeated = repeats >= (MIN_LONG_LOOP_REPEATS if period >= LONG_UNIT_CHARS else MIN_LOOP_REPEATS)
    return Loop(start, period, repeats, unit, end == len(text)) if is_long and is_repeated else None


def _find_likely_periods(text: str) -> list[int]:
    """Return the distances at which many short sequences of characters occur again."""
    last_start: dict[str, int] = {}
    num_by_distance: Counter[int] = Counter()
    for start in range(len(text) - PROBE_CHARS + 1):
        probe = text[start : start + PROBE_CHARS]
        if probe in last_start:
            num_by_distance[start - last_start[probe]] += 1
        last_start[probe] = start
    return [distance for distance, num in num_by_distance.items() if num >= MIN_PROBES]


def _find_longest_periodic_part(text: str, period: int) -> tuple[int, int]:
    """Return start and end of the longest part of a text that has a period."""
    best_start = best_end = start = 0
    for is_equal, pairs in groupby(
        zip(text, text[period:], strict=False), key=lambda pair: pair[0] == pair[1]
    ):
        length = sum(1 for _ in pairs)
        if is_equal and length + period > best_end - best_start:
            best_start, best_end = start, start + length + period
        start += length
    return best_start, best_end


def _split_words(text: str) -> list[str]:
    """Split a text into words, and scripts without spaces into characters."""
    if text.isascii():
        return text.split()
    text_words = []
    for word in text.split():
        for is_spaceless, letters in groupby(word, key=_is_written_without_spaces):
            characters = [*letters]
            text_words += characters if is_spaceless else ["".join(characters)]
    return text_words


def _is_written_without_spaces(character: str) -> bool:
    return character >= "\u0e00" and _find_unicode_script(character) in (
        "CJK",
        "THAI",
        "LAO",
        "KHMER",
        "MYANMAR",
    )


def _compute_repeated_share(text_words: list[str]) -> float:
    ngrams = [
        tuple(text_words[start : start + NGRAM_WORDS]) for start in range(len(text_words) - NGRAM_WORDS + 1)
    ]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def has_script_change(text: str) -> bool:
    """Return whether a text goes on in a script that it did not begin with.

    A change to Latin letters does not count, because texts in every script contain Latin names and code.
    """
    if text.isascii():
        return False
    first = ""
    in_script = 0  # letters in a row of one other script
    previous = ""
    for character in text:
        script = _find_unicode_script(character) if character.isalpha() else ""
        if not script or script in SHARED_SCRIPTS:
            continue
        first = first or script
        in_script = in_script + 1 if script == previous else 1
        previous = script
        if script not in (first, "LATIN") and in_script >= MIN_SCRIPT_LETTERS:
            return True
    return False


@lru_cache(maxsize=4096)
def _find_unicode_script(character: str) -> str:
    """Return the first word of a letter's Unicode name, which is its script."""
    script = unicodedata.name(character, "").partition(" ")[0]
    return SCRIPT_GROUPS.get(script, script)
