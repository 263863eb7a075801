"""Counts sentences and capital words of English text without trained data.

The rules follow NLTK's Punkt tokenizer and word tokenizer, which lm-eval uses, but need no download. Punkt also
has a trained list of rare abbreviations, and knows of each word whether it usually begins a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import tee, zip_longest
from typing import TypeVar

T = TypeVar("T")


# Punkt knows these as well. It ends a sentence after e.g., i.e. and etc.
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|sen|rep|gen|col|adm|st|jr|sr|messrs|inc|corp|co|cos|ltd|bros|cie|pa|ave|jan|feb|"
    "aug|sept|sep|oct|nov|dec|tues|wed|fri|ala|ariz|calif|colo|conn|fla|ill|kan|ky|mich|minn|nev|okla|ore|"
    "tenn|va|vt|wash|wis|vs|ft|u.s|u.k|u.n|u.s.a|a.m|p.m|d.c|n.y|n.j|l.a|s.c|n.c|ph.d|m.b.a|ok|ct|yr"
)
INITIALS = frozenset("cdefghklmnprstvw")  # never end a sentence; after another letter, the next word decides
# with a capital letter, these end a sentence that stops in "..." or an abbreviation
_COMMON_BEGINNINGS = (
    "according|although|among|both|but|despite|even|he|her|here|however|i|if|in|indeed|instead|it|many|"
    "meanwhile|moreover|nevertheless|nonetheless|nor|similarly|since|so|some|still|such|the|there|these|"
    "they|this|though|through|thus|under|when|which|while|without|yet|your"
)
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split("|"))
COMMON_BEGINNINGS = frozenset(_COMMON_BEGINNINGS.split("|"))
# directly after a sentence mark, these let the sentence end as a space does
BORDER = "?!\"')]}*;:@‘’“”«»({["
MARKS = frozenset(".?!")
WORDS = re.compile(r"\S+")
MANY_MARKS = re.compile(r"[?!]{3,}")
SENTENCE_MARK = re.compile(rf"[.?!](?=[{re.escape(BORDER)}]|\Z)")
WORD_BEFORE = re.compile(rf"[^{re.escape(BORDER)}]*\Z")
LETTERS = re.compile(r"[^\W\d_]+")
CLOSING_MARKS = re.compile(r"[\"')\]}‘’“”«»]+?(?:\s+|(?=--)|$)", re.MULTILINE)
MAX_WORD = 64  # characters before a period that are looked at
# what separates tokens besides spaces
SEPARATOR = re.compile(r"[\s\"`«»“”‘’„;@#$%&?!*()\[\]{}<>‒–—―]+|[:,](?!\d)|\.{2,}|--|''")
SPLIT_WORD = re.compile(
    r"\b(CAN)(NOT)\b|\b(D)('YE)\b|\b(GIM)(ME)\b|\b(GON)(NA)\b|\b(GOT)(TA)\b|\b(LEM)(ME)\b|\b(MORE)('N)\b|\b(WAN)(NA)(?=\s)"
)
ENDING = re.compile(r"(?<=[^'])(?:'(?:[sSmMdD]|ll|LL|re|RE|ve|VE)|n't|N'T)\Z")


def count_sentences(text: str, max_count: int) -> int:
    """Count the sentences of a text. The count stops at `max_count`, because a text may have a million."""
    text = MANY_MARKS.sub("!!", text)
    count = shift = 0
    for (start, end), following in _pair_with_next_value(_split_at_sentence_ends(text)):
        start, shift = start + shift, 0
        closing = None if following is None else CLOSING_MARKS.match(text, *following)
        if closing is not None:  # they belong to the sentence before
            shift = closing.end() - closing.start()
        count += closing is not None or start < end
        if count >= max_count:
            break
    return count


def _split_at_sentence_ends(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each piece. Of several marks in one word, the last one ends the piece."""
    start = 0
    for word, following in _pair_with_next_value(WORDS.finditer(text)):
        if MARKS.isdisjoint(word[0]):
            continue
        end, ends_here = 0, False
        for mark in SENTENCE_MARK.finditer(word[0]):
            if mark.end() < len(word[0]) or following is not None:
                end = mark.end()
                ends_here = ends_here or _ends_sentence(text, word, mark.start(), following)
        if ends_here:
            yield start, word.start() + end
            start = following.start() if following and end == len(word[0]) else word.start() + end
    yield start, len(text.rstrip())


def _pair_with_next_value(values: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Yield each value with the value after it, or with None at the end."""
    first, following = tee(values)
    next(following, None)
    return zip_longest(first, following)


def _ends_sentence(text: str, word: re.Match[str], position: int, following: re.Match[str] | None) -> bool:
    token = word[0]
    if token[position] != ".":
        return True
    before = token[max(0, position - MAX_WORD) : position]
    if not before.isalnum() and (found := WORD_BEFORE.search(before)):
        before = found[0].lstrip("-,`&#")
    before = before.lower()
    is_inside = position + 1 < len(token)
    next_word = token[position + 1] if is_inside or following is None else following[0][:MAX_WORD]
    if len(before) == 1 and before.isalpha():
        return before not in INITIALS and _ends_after_initial(text, word.start(), next_word)
    if before.replace(",", "").isdigit():
        return not next_word[0].islower() and (next_word[0] not in ";:,.!?" or next_word.startswith(".."))
    if before.endswith(".") or before in ABBREVIATIONS or before.rpartition("-")[2] in ABBREVIATIONS:
        return _is_common_beginning(next_word)
    return True


def _ends_after_initial(text: str, position: int, next_word: str) -> bool:
    """Return whether the letter of an outline, rather than the initial of a name, stands before a period."""
    if next_word[0].islower() or next_word[0] in ";:,.!?":
        return False
    line = text[max(0, position - MAX_WORD) : position].rpartition("\n")[2]
    return not next_word[0].isupper() or not line.strip() or _is_common_beginning(next_word)


def _is_common_beginning(word: str) -> bool:
    found = LETTERS.match(word) if word[0].isupper() else None
    return found is not None and found[0].lower() in COMMON_BEGINNINGS


def count_capital_words(text: str) -> int:
    """Count the words in capital letters. Contractions such as I'M and CANNOT are two words."""
    words = SEPARATOR.split(SPLIT_WORD.sub(_insert_space, text))
    return sum(_count_uppercase_word_parts(word) for word in words if word)


def _insert_space(contraction: re.Match[str]) -> str:
    return " ".join(part for part in contraction.groups() if part)


def _count_uppercase_word_parts(word: str) -> int:
    ending = ENDING.search(word)
    if ending is None:
        return int(word.isupper())
    return int(word[: ending.start()].isupper()) + int(ending[0].isupper())
