"""Separate a model's thinking from its answer in generated text.

Only text after the last closing tag is the answer, also where the chat template wrote the
opening tag. A text that ends within its thinking has no answer. Tags that are only
mentioned do not count: within quotes or backticks, an adjacent pair within a thought, a tag
between two words of an answer, and a pair in a code block. A lone closing tag in a code
block counts, since a model may stop thinking there, but not in an answer's code block. The
parser looks at most one character ahead, so a text can be parsed while it is generated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Tag(NamedTuple):
    """Pair of tags that enclose a model's thinking."""

    opening: str
    closing: str
    forced: str | None = None  # what ends the thinking where it is cut; None: the closing tag

    @property
    def cut_text(self) -> str:
        """Text that ends the thinking when the thinking budget is spent."""
        return self.forced or self.closing


Tags = tuple[Tag, ...]
TagPositions = Sequence[tuple[int, int]]  # in a text: from and to
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
class SplitText:
    """A generated text, split into thinking and answer."""

    thinking: str
    answer: str
    is_open: bool = False  # the text ended while the model was thinking, so there is no answer

    @property
    def has_thinking(self) -> bool:
        """Whether the text contains thinking. Empty thinking tags do not count."""
        return self.is_open or bool(self.thinking.strip())


class Span(NamedTuple):
    """Part of a text between two tags."""

    start: int
    end: int
    is_thinking: bool


@dataclass(frozen=True)
class TaggedSpans:
    """Spans of thinking and answer in a text, without tags."""

    spans: list[Span]
    tag: Tag | None = None  # that opened or closed the last span
    # the text ends in a tag behind a quote: the next character says whether it counts
    is_undecided: bool = False

    @property
    def is_open(self) -> bool:
        """Whether the text ended while the model was thinking."""
        return self.spans[-1].is_thinking


def parse_thinking_spans(
    text: str,
    tags: Tags = TAGS,
    in_thinking: bool = False,
    is_complete: bool = True,
    forced_tags: TagPositions = (),
) -> TaggedSpans:
    """Split a text into spans of thinking and answer.

    in_thinking: the prompt ended in an opening tag. is_complete: no more text follows.
    forced_tags: positions of closing tags that were inserted, and count whatever surrounds
    them.
    """
    spans: list[Span] = []
    at, is_open, tag, is_undecided = 0, in_thinking, None, False
    in_code = has_pair = False  # in a block of code, and behind an opening tag in it
    opening: re.Match[str] | None = None  # the last opening tag, if the text may only speak of it
    for mark in _compile_tag_pattern(tags).finditer(text):
        if mark[0].endswith(_FENCE):
            in_code, has_pair = not in_code, False
            continue
        closes, is_answer = _tags_by_closing(tags).get(_normalize_tag(mark[0])), bool(spans) and not is_open
        followers = _get_chars_marking_tag_mention(mark, closes is not None, opening, is_open, is_answer)
        if mark.span() in forced_tags:
            followers, in_code = "", False
        is_last = mark.end() == len(text) and not is_complete
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
        tag = closes._replace(closing=mark[0]) if closes else _tags_by_opening(tags)[_normalize_tag(mark[0])]
    return TaggedSpans([*spans, Span(at, len(text), is_open)], tag, is_undecided)


def _get_chars_marking_tag_mention(
    tag_match: re.Match[str], is_closing: bool, opening: re.Match[str] | None, is_open: bool, is_answer: bool
) -> str | None:
    """Return the characters that, if they follow a tag, show that the text only mentions the tag.

    None if the tag is a mention in any case.
    """
    text, start = tag_match.string, tag_match.start()
    quote = text[start - 1] if start else ""
    is_behind_word = quote == " " and text[start - 2 : start - 1].isalnum()
    if not is_closing:
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


def split_thinking(
    text: str, in_thinking: bool = False, tags: Tags = TAGS, forced_tags: TagPositions = ()
) -> SplitText:
    """Split a text into thinking and answer.

    in_thinking: the prompt ended in an opening tag.
    """
    spans = parse_thinking_spans(text, tags, in_thinking, forced_tags=forced_tags).spans
    last = spans[-1]
    if len(spans) == 1:
        return SplitText(text, "", is_open=True) if last.is_thinking else SplitText("", text)
    begin = next((span.start for span in spans if text[span.start : span.end].strip()), last.start)
    if last.is_thinking:
        return SplitText(text[begin:], "", is_open=True)
    return SplitText(text[begin : spans[-2].end], text[last.start :])


class TextPiece(NamedTuple):
    """Piece of a streamed text without tags, either thinking or answer."""

    text: str
    is_thinking: bool


def split_streamable_text(
    text: str,
    num_sent_chars: int,
    tags: Tags = TAGS,
    in_thinking: bool = False,
    is_complete: bool = False,
    stop: Sequence[str] = (),
    forced_tags: TagPositions = (),
) -> tuple[list[TextPiece], int]:
    """Split a streamed text into pieces that can be sent now. Also returns how many characters were
    sent in total.

    Characters that may begin a tag or a stop string, and bytes of an unfinished character, are
    withheld until more text follows. is_complete: nothing follows.
    """
    end = len(text) if is_complete else len(text.rstrip("\ufffd"))
    found = parse_thinking_spans(text, tags, in_thinking, is_complete, forced_tags)
    if not is_complete:
        held = 1 + max(len(mark) for tag in tags for mark in tag[:2]) if found.is_undecided else 0
        held = max(held, count_partial_tag_chars(text[:end], tags))
        for stop_text in () if found.is_open else stop:
            sizes = range(min(len(stop_text) - 1, end), held, -1)
            held = next((size for size in sizes if text[:end].endswith(stop_text[:size])), held)
        end -= held
    spans = [
        (text[max(span.start, num_sent_chars) : min(span.end, end)], span.is_thinking) for span in found.spans
    ]
    return [TextPiece(new, is_thinking) for new, is_thinking in spans if new], max(num_sent_chars, end)


def ends_in_thinking(prompt: object, tags: Tags = TAGS) -> bool:
    """Whether a prompt ends in an opening thinking tag.

    Chat templates of models that always think write it.
    """
    return find_open_tag(prompt, tags) is not None


def find_open_tag(prompt: object, tags: Tags = TAGS) -> Tag | None:
    """Return the thinking tag that is open at the end of a prompt, or None."""
    end = prompt.rstrip() if isinstance(prompt, str) else ""
    return next((tag for tag in tags if end.endswith(tag.opening.rstrip())), None)


def is_part_of_tag(token: str, tags: Tags = TAGS) -> bool:
    """Return whether a special token is part of a thinking tag. Such tokens must stay in the text."""
    return bool(token) and any(token in part for tag in tags for part in tag if part)


def count_partial_tag_chars(text: str, tags: Tags = TAGS) -> int:
    marks = [mark for tag in tags for mark in tag[:2]]
    longest = min(max(map(len, marks), default=1) - 1, len(text))
    ends = ((size, text[-size:].lower()) for size in range(longest, 0, -1))
    return next((size for size, end in ends if any(mark.lower().startswith(end) for mark in marks)), 0)


def _normalize_tag(tag_text: str) -> str:
    """Convert a tag such as <Thought> to lower case, because models vary its capitalization."""
    return tag_text.lower() if _NAME.fullmatch(tag_text) else tag_text


@lru_cache(maxsize=64)
def _compile_tag_pattern(tags: Tags) -> re.Pattern[str]:
    """Return a regular expression that matches all tags and code fences. Longer tags match first."""
    marks = sorted({mark for tag in tags for mark in tag[:2]}, key=len, reverse=True)
    patterns = [f"(?i:{mark})" if _NAME.fullmatch(mark) else re.escape(mark) for mark in marks]
    return re.compile("|".join([*patterns, rf"^[ \t]*{_FENCE}"]), re.MULTILINE)


@lru_cache(maxsize=64)
def _tags_by_closing(tags: Tags) -> dict[str, Tag]:
    return {_normalize_tag(tag.closing): tag for tag in reversed(tags)}


@lru_cache(maxsize=64)
def _tags_by_opening(tags: Tags) -> dict[str, Tag]:
    return {_normalize_tag(tag.opening): tag for tag in reversed(tags)}
