"""Tells the thinking in a text from the answer: the one place that does.

Only what follows the last closing tag is an answer, also where the chat template has written the
opening tag, so that the text has only a closing one. A text that ends in its thinking has no
answer. Tags that the text speaks of do not count: between quotes or backticks, a pair side by side
within a thought, an answer's between two words, and a pair in a block of code. A closing tag alone
counts in a block of code, since a model may stop thinking in the middle of it, but not in an
answer's. What is read depends on no more than the next character, so that a text can be read while
it is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Tag(NamedTuple):
    """A pair of tags around thinking."""

    opening: str
    closing: str
    forced: str | None = None  # what ends the thinking where it is cut; None: the closing tag

    @property
    def end(self) -> str:
        """What ends the thinking where it is cut."""
        return self.forced or self.closing


Tags = tuple[Tag, ...]
Places = Sequence[tuple[int, int]]  # in a text: from and to
_END, _FINAL = "<|end|><|start|>assistant", "<|channel|>final<|message|>"
TAGS: Tags = (  # as a model or its chat template writes them
    Tag("<think>", "</think>"),
    Tag("<thinking>", "</thinking>"),
    Tag("<reasoning>", "</reasoning>"),
    Tag("<thought>", "</thought>"),
    Tag("<seed:think>", "</seed:think>"),
    Tag("[THINK]", "[/THINK]"),
    Tag("<|START_THINKING|>", "<|END_THINKING|>"),
    Tag("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tag("<mm:think>", "</mm:think>"),
    Tag("◁think▷", "◁/think▷"),
    Tag("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    Tag("<|inner_prefix|>", "<|inner_suffix|>"),
    Tag("<|channel>thought\n", "<channel|>"),
    *(
        Tag("<|channel|>analysis<|message|>", end + final, _END + final)
        for final in (_FINAL, "<|channel|>final <|constrain|>json<|message|>")
        for end in (_END, "")
    ),
)
# by the opening quote, the closing one
_QUOTED = dict(zip("`\"'“„«「『《", "`\"'”“»」』》", strict=True))
_QUOTES = "".join(_QUOTED) + "".join(_QUOTED.values())
# what may stand between: <think> and </think>
_SIDE_BY_SIDE = re.compile(r"[ /,…]*(?:\.\.\.|and|or)?[ /,…]*")
_NAME = re.compile(r"</?[\w:]+>")  # models also write <Thought>
_FENCE = "```"


@dataclass(frozen=True)
class Parts:
    """The two parts of a text."""

    thinking: str
    answer: str
    is_open: bool = False  # the text ended while the model was thinking, so there is no answer

    @property
    def has_thinking(self) -> bool:
        """Whether the model thought: an empty pair of tags is no thinking."""
        return self.is_open or bool(self.thinking.strip())


class Span(NamedTuple):
    """A part of a text between two tags."""

    start: int
    end: int
    is_thinking: bool


@dataclass(frozen=True)
class Reading:
    """The spans of a text in their order, without the tags between them; the last one is the answer
    or is open."""

    spans: list[Span]
    tag: Tag | None = None  # that opened or closed the last span
    # the text ends in a tag behind a quote: the next character says whether it counts
    is_undecided: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the text ended while the model was thinking."""
        return self.spans[-1].is_thinking


def read(
    text: str, tags: Tags = TAGS, in_thinking: bool = False, is_whole: bool = True, closed: Places = ()
) -> Reading:
    """Return where a text is thinking; in_thinking: its prompt ended in an opening tag; is_whole:
    nothing follows.

    closed: the places of closing tags that were forced, and count whatever stands around them.
    """
    spans: list[Span] = []
    at, is_open, tag, is_undecided = 0, in_thinking, None, False
    in_code = has_pair = False  # in a block of code, and behind an opening tag in it
    opening: re.Match[str] | None = None  # the last opening tag, if the text may only speak of it
    for mark in _marks(tags).finditer(text):
        if mark[0].endswith(_FENCE):
            in_code, has_pair = not in_code, False
            continue
        closes, is_answer = _by_closing(tags).get(_key(mark[0])), bool(spans) and not is_open
        followers = _spoken_of_before(mark, closes is not None, opening, is_open, is_answer)
        if mark.span() in closed:
            followers, in_code = "", False
        is_last = mark.end() == len(text) and not is_whole
        if followers is None or (
            followers and (is_last or text[mark.end() : mark.end() + 1] in [*followers])
        ):
            opening, is_undecided = None if closes else mark, is_last and followers is not None
            continue
        if in_code and (has_pair or closes is None or is_answer):
            has_pair = closes is None
            continue
        opening = mark if closes is None and is_open and text[at : mark.start()].strip() else None
        spans.append(Span(at, mark.start(), is_open))
        at, is_open, in_code = mark.end(), closes is None, False
        tag = closes._replace(closing=mark[0]) if closes else _by_opening(tags)[_key(mark[0])]
    return Reading([*spans, Span(at, len(text), is_open)], tag, is_undecided)


def _spoken_of_before(
    mark: re.Match[str], closes: bool, opening: re.Match[str] | None, is_open: bool, is_answer: bool
) -> str | None:
    """Return the characters one of which follows a tag that the text only speaks of; None: whatever
    follows."""
    text, start = mark.string, mark.start()
    quote = text[start - 1] if start else ""
    is_behind_word = quote == " " and text[start - 2 : start - 1].isalnum()
    if not closes:
        return None if quote in _QUOTED else " " if is_behind_word and not is_open else ""
    between = text[opening.end() : start] if opening else "\n"
    quoted = _QUOTED.get(text[opening.start() - 1]) if opening and opening.start() else None
    if quoted and "\n" not in between and quoted not in between:
        return None
    if quote and quote in _QUOTES:
        return quote if quote.isascii() else _QUOTES
    if _SIDE_BY_SIDE.fullmatch(between):
        return " ,.;:)"
    return " " if is_behind_word and is_answer else ""


def split(text: str, in_thinking: bool = False, tags: Tags = TAGS, closed: Places = ()) -> Parts:
    """Return the thinking and the answer in a text; `in_thinking`: its prompt ended in an opening
    tag."""
    spans = read(text, tags, in_thinking, closed=closed).spans
    last = spans[-1]
    if len(spans) == 1:
        return Parts(text, "", is_open=True) if last.is_thinking else Parts("", text)
    begin = next((span.start for span in spans if text[span.start : span.end].strip()), last.start)
    if last.is_thinking:
        return Parts(text[begin:], "", is_open=True)
    return Parts(text[begin : spans[-2].end], text[last.start :])


class Piece(NamedTuple):
    """A part of a text without tags."""

    text: str
    is_thinking: bool


def new_pieces(
    text: str,
    sent: int,
    tags: Tags = TAGS,
    in_thinking: bool = False,
    is_whole: bool = False,
    stop: Sequence[str] = (),
    closed: Places = (),
) -> tuple[list[Piece], int]:
    """Return what can be said of a text while it is written, behind `sent` characters, and up to
    where it is said.

    Held back are characters that may begin a tag or, in the answer, a stop text, and the bytes of
    an unfinished character. is_whole: nothing follows.
    """
    end = len(text) if is_whole else len(text.rstrip("\ufffd"))
    found = read(text, tags, in_thinking, is_whole, closed)
    if not is_whole:
        held = 1 + max(len(mark) for tag in tags for mark in tag[:2]) if found.is_undecided else 0
        held = max(held, may_begin_tag(text[:end], tags))
        for stop_text in () if found.is_open else stop:
            sizes = range(min(len(stop_text) - 1, end), held, -1)
            held = next((size for size in sizes if text[:end].endswith(stop_text[:size])), held)
        end -= held
    spans = [(text[max(span.start, sent) : min(span.end, end)], span.is_thinking) for span in found.spans]
    return [Piece(new, is_thinking) for new, is_thinking in spans if new], max(sent, end)


def ends_in_thinking(prompt: object, tags: Tags = TAGS) -> bool:
    """Whether a prompt ends in an opening tag, as chat templates of models that always think write
    it."""
    return opened_by(prompt, tags) is not None


def opened_by(prompt: object, tags: Tags = TAGS) -> Tag | None:
    """Return the tag in whose opening a prompt ends; None if it ends in none."""
    end = prompt.rstrip() if isinstance(prompt, str) else ""
    return next((tag for tag in tags if end.endswith(tag.opening.rstrip())), None)


def is_part_of_tag(token: str, tags: Tags = TAGS) -> bool:
    """Whether a special token of a tokenizer is a tag or stands in one: without it a text would not
    tell its parts."""
    return bool(token) and any(token in part for tag in tags for part in tag if part)


def may_begin_tag(text: str, tags: Tags = TAGS) -> int:
    """Return how many characters at the end of a text may be the beginning of a tag."""
    marks = [mark for tag in tags for mark in tag[:2]]
    longest = min(max(map(len, marks), default=1) - 1, len(text))
    ends = ((size, text[-size:].lower()) for size in range(longest, 0, -1))
    return next((size for size, end in ends if any(mark.lower().startswith(end) for mark in marks)), 0)


def _key(mark: str) -> str:
    """Return a tag as it is looked up: a name in angle brackets may have capital letters."""
    return mark.lower() if _NAME.fullmatch(mark) else mark


@lru_cache(maxsize=64)
def _marks(tags: Tags) -> re.Pattern[str]:
    """Return the pattern of all tags and of fences around code; of two tags that begin alike, the
    longer one."""
    marks = sorted({mark for tag in tags for mark in tag[:2]}, key=len, reverse=True)
    patterns = [f"(?i:{mark})" if _NAME.fullmatch(mark) else re.escape(mark) for mark in marks]
    return re.compile("|".join([*patterns, rf"^[ \t]*{_FENCE}"]), re.MULTILINE)


@lru_cache(maxsize=64)
def _by_closing(tags: Tags) -> dict[str, Tag]:
    return {_key(tag.closing): tag for tag in reversed(tags)}


@lru_cache(maxsize=64)
def _by_opening(tags: Tags) -> dict[str, Tag]:
    return {_key(tag.opening): tag for tag in reversed(tags)}
