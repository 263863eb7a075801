"""What a model wrote is thinking and an answer: the one place that tells the two apart, and the value that has both.

Only what follows the last closing tag is an answer, also where the chat template has written the opening tag, so that
the text has only a closing one. A text that ends in its thinking has no answer. A tag directly between quotes or
backticks is one that the text speaks of, and does not count; nor does a pair of tags within a block of code. A closing
tag alone counts there, since a model may stop thinking in the middle of a block. What is read does not depend on what
follows, so that a text can be read while it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, Self


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
TAGS: Tags = (  # as a model or its chat template writes them
    Tag("<think>", "</think>"),
    Tag("<thinking>", "</thinking>"),
    Tag("<reasoning>", "</reasoning>"),
    Tag("<thought>", "</thought>"),
    Tag("<seed:think>", "</seed:think>"),
    Tag("[THINK]", "[/THINK]"),
    Tag("<|START_THINKING|>", "<|END_THINKING|>"),
    Tag("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tag(
        "<|channel|>analysis",
        "<|channel|>final<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
)
_QUOTES = frozenset("`\"'")
_FENCE = "```"
RENAMED = {"taken_from": "reused_from", "is_begun": "in_thinking"}  # keys of samples, as earlier versions wrote them


class FinishReason(StrEnum):
    """Why a completion ended: by itself or at a stop string, at the token limit, in an error, or cancelled."""

    stop = "stop"
    length = "length"
    error = "error"
    cancelled = "cancelled"


class Verdict(StrEnum):
    """The judgement of an answer; only `correct` scores."""

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"
    cut_off = "cut_off"


class Ending(StrEnum):
    """How an answer with thinking ended."""

    no_thinking = "no_thinking"
    closed = "closed"
    cut_off_thinking = "cut_off_thinking"
    cut_off_answer = "cut_off_answer"
    budget_spent = "budget_spent"


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


@dataclass(frozen=True)
class Answer:
    """A text that a model wrote, and what was found in it: made where a completion ends, and handed on whole."""

    text: str  # without the thinking; earlier versions wrote the whole text, and then `ending` is not set
    token_ids: list[int]  # of thinking and answer
    finish_reason: FinishReason
    new_tokens: int | None = None  # if the tokens are only counted (by a server); None: as many as token_ids
    thinking: str | None = None  # None: there was none
    in_thinking: bool = False  # the prompt ended in an opening tag, so the text begins within the thinking
    extracted: dict[str, str | None] | None = None  # extractor's name -> what it found
    verdict: Verdict | None = None
    thinking_tokens: int | None = None  # that the model wrote between the tags; None: no thinking, or not known
    answer_tokens: int | None = None  # behind the last closing tag; None: all tokens, or not known
    ending: Ending | None = None  # None: no thinking, or a text of an earlier version

    @classmethod
    def read(
        cls,
        text: str,
        token_ids: list[int],
        finish_reason: FinishReason,
        tags: Tags = TAGS,
        *,
        in_thinking: bool = False,
        thinking: str | None = None,
        is_spent: bool = False,
        thinking_tokens: int | None = None,
        answer_tokens: int | None = None,
        new_tokens: int | None = None,
    ) -> Self:
        """Return the answer in a text as it was written, tags included; `thinking`: what a server has sent apart.

        is_spent: the thinking was ended because its budget was spent. An empty `thinking` with tokens is one that a
        server does not show.
        """
        parts = split(text, in_thinking and thinking is None, tags)
        if thinking is not None:  # a server that sends it apart has found where it ends
            is_cut_off = not text.strip() and finish_reason is not FinishReason.stop
            parts = Parts(thinking + parts.thinking, parts.answer, parts.is_open or is_cut_off)
        ending: Ending | None = None
        if parts.is_open:
            ending = Ending.cut_off_thinking
        elif parts.has_thinking or is_spent or (thinking is not None and thinking_tokens):
            is_cut_off = finish_reason is FinishReason.length
            spent = Ending.budget_spent if is_spent else Ending.closed
            ending = Ending.cut_off_answer if is_cut_off else spent
        elif split(parts.answer, in_thinking).answer != parts.answer:  # what the text alone would be read as
            ending = Ending.no_thinking
        is_thought = ending not in (None, Ending.no_thinking)
        return cls(
            parts.answer,
            token_ids,
            finish_reason,
            new_tokens,
            parts.thinking if is_thought else None,
            in_thinking,
            thinking_tokens=thinking_tokens if is_thought else None,
            answer_tokens=answer_tokens if is_thought else None,
            ending=ending,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read an answer as it was written; raises ValueError, KeyError or TypeError if it is none."""
        now = {RENAMED.get(key, key): it for key, it in values.items()}
        for key, kind in (("verdict", Verdict), ("ending", Ending)):
            if now.get(key) is not None:
                now[key] = kind(now[key])
        return cls(**now | {"finish_reason": FinishReason(now["finish_reason"])})

    def without_tokens(self) -> Self:
        """Return the answer for a sample that lists several answers, each with its tokens."""
        return replace(self, token_ids=[], new_tokens=None)

    @property
    def tokens(self) -> int:
        """The number of tokens, of thinking and answer."""
        return len(self.token_ids) if self.new_tokens is None else self.new_tokens

    @property
    def parts(self) -> Parts:
        """Its thinking and its answer."""
        if self.ending is not None:
            return Parts(self.thinking or "", self.text, self.ending is Ending.cut_off_thinking)
        if self.thinking is None:
            return split(self.text, self.in_thinking)
        return self.read(self.text, [], self.finish_reason, thinking=self.thinking).parts


class Span(NamedTuple):
    """A part of a text between two tags."""

    start: int
    end: int
    is_thinking: bool


@dataclass(frozen=True)
class Reading:
    """The spans of a text in their order, without the tags between them; the last one is the answer or is open."""

    spans: list[Span]
    tag: Tag | None = None  # that opened or closed the last span
    is_undecided: bool = False  # the text ends in a tag behind a quote: the next character says whether it counts

    @property
    def is_open(self) -> bool:
        """Whether the text ended while the model was thinking."""
        return self.spans[-1].is_thinking


def read(text: str, tags: Tags = TAGS, in_thinking: bool = False, is_whole: bool = True) -> Reading:
    """Return where a text is thinking; in_thinking: its prompt ended in an opening tag; is_whole: nothing follows."""
    spans: list[Span] = []
    at, is_open, tag, is_undecided = 0, in_thinking, None, False
    in_code = has_pair = False  # in a block of code, and behind an opening tag in it
    for mark in _marks(tags).finditer(text):
        if mark[0].endswith(_FENCE):
            in_code, has_pair = not in_code, False
            continue
        is_last = mark.end() == len(text) and not is_whole
        if (
            mark.start()
            and text[mark.start() - 1] in _QUOTES
            and (is_last or text[mark.end() : mark.end() + 1] in _QUOTES)
        ):
            is_undecided = is_last
            continue
        closes = _by_closing(tags).get(mark[0])
        if in_code and (has_pair or closes is None):
            has_pair = closes is None
            continue
        spans.append(Span(at, mark.start(), is_open))
        at, is_open, in_code = mark.end(), closes is None, False
        tag = closes or _by_opening(tags)[mark[0]]
    return Reading([*spans, Span(at, len(text), is_open)], tag, is_undecided)


def split(text: str, in_thinking: bool = False, tags: Tags = TAGS) -> Parts:
    """Return the thinking and the answer in a text; `in_thinking`: its prompt ended in an opening tag."""
    spans = read(text, tags, in_thinking).spans
    first, last = spans[0], spans[-1]
    if len(spans) == 1:
        return Parts(text, "", is_open=True) if last.is_thinking else Parts("", text)
    begins_with_tag = spans[1].is_thinking and not text[: first.end].strip()
    begin = spans[1].start if begins_with_tag else 0
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
) -> tuple[list[Piece], int]:
    """Return what can be said of a text while it is written, behind `sent` characters, and up to where it is said.

    Held back are characters that may begin a tag or, in the answer, a stop text, and the bytes of an unfinished
    character. is_whole: nothing follows.
    """
    end = len(text) if is_whole else len(text.rstrip("\ufffd"))
    found = read(text, tags, in_thinking, is_whole)
    if not is_whole:
        held = 1 + max(len(mark) for tag in tags for mark in tag[:2]) if found.is_undecided else 0
        held = max(held, may_begin_tag(text[:end], tags))
        for one in () if found.is_open else stop:
            sizes = range(min(len(one) - 1, end), held, -1)
            held = next((size for size in sizes if text[:end].endswith(one[:size])), held)
        end -= held
    spans = [(text[max(span.start, sent) : min(span.end, end)], span.is_thinking) for span in found.spans]
    return [Piece(new, is_thinking) for new, is_thinking in spans if new], max(sent, end)


def ends_in_thinking(prompt: object, tags: Tags = TAGS) -> bool:
    """Whether a prompt ends in an opening tag, as chat templates of models that always think write it."""
    return opened_by(prompt, tags) is not None


def opened_by(prompt: object, tags: Tags = TAGS) -> Tag | None:
    """Return the tag in whose opening a prompt ends; None if it ends in none."""
    end = prompt.rstrip() if isinstance(prompt, str) else ""
    return next((tag for tag in tags if end.endswith(tag.opening)), None)


def is_part_of_tag(token: str, tags: Tags = TAGS) -> bool:
    """Whether a special token of a tokenizer is a tag or stands in one: without it a text would not tell its parts."""
    return bool(token) and any(token in part for tag in tags for part in tag if part)


def may_begin_tag(text: str, tags: Tags = TAGS) -> int:
    """Return how many characters at the end of a text may be the beginning of a tag."""
    marks = [mark for tag in tags for mark in tag[:2]]
    longest = min(max(map(len, marks), default=1) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if any(mark.startswith(text[-size:]) for mark in marks)), 0)


@lru_cache(maxsize=64)
def _marks(tags: Tags) -> re.Pattern[str]:
    """Return the pattern of all tags and of fences around code; of two tags that begin alike, the longer one."""
    marks = sorted({mark for tag in tags for mark in tag[:2]}, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, marks), rf"^[ \t]*{_FENCE}"]), re.MULTILINE)


@lru_cache(maxsize=64)
def _by_closing(tags: Tags) -> dict[str, Tag]:
    return {tag.closing: tag for tag in reversed(tags)}


@lru_cache(maxsize=64)
def _by_opening(tags: Tags) -> dict[str, Tag]:
    return {tag.opening: tag for tag in reversed(tags)}
