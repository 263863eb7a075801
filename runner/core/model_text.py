"""What a model wrote is thinking and an answer: the one place that tells the two apart, and the value that has both.

Tags come from one short table. Only what follows the last closing tag is an answer, also where the chat template has
written the opening tag, so that the text has only a closing one. A text that ends in its thinking has no answer. A tag
directly between quotes or backticks is one that the text speaks of, and does not count; in a block of code it counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

TAGS = (  # as a model or its chat template writes them
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
_OPENING = tuple(opening for opening, _ in TAGS)
_CLOSING = frozenset(closing for _, closing in TAGS)
_TAG = re.compile("|".join(re.escape(tag) for tag in (*_OPENING, *sorted(_CLOSING))))
_QUOTES = frozenset("`\"'")
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

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    new_tokens: int | None = None  # if the tokens are only counted (by a server); None: as many as token_ids
    thinking: str | None = None  # that a server sent apart from the text; None: it sent none
    in_thinking: bool = False  # the prompt ended in an opening tag, so the text begins within the thinking
    extracted: dict[str, str | None] | None = None  # extractor's name -> what it found
    verdict: Verdict | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read an answer as it was written; raises ValueError, KeyError or TypeError if it is none."""
        now = {RENAMED.get(key, key): it for key, it in values.items()}
        if now.get("verdict") is not None:
            now["verdict"] = Verdict(now["verdict"])
        return cls(**now | {"finish_reason": FinishReason(now["finish_reason"])})

    def without_tokens(self) -> Self:
        """Return the answer for a sample that lists several answers, each with its tokens."""
        return replace(self, token_ids=[], new_tokens=None)

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return len(self.token_ids) if self.new_tokens is None else self.new_tokens

    @property
    def parts(self) -> Parts:
        """Its thinking and its answer."""
        if self.thinking is None:
            return split(self.text, self.in_thinking)
        within = split(self.text)  # a server that sends thinking apart has found where it ends
        is_cut_off = not self.text.strip() and self.finish_reason is not FinishReason.stop
        return Parts(self.thinking + within.thinking, within.answer, within.is_open or is_cut_off)


def split(text: str, in_thinking: bool = False) -> Parts:
    """Return the thinking and the answer in a text; `in_thinking`: its prompt ended in an opening tag."""
    begin, end, answer_from, is_open = 0, 0, 0, in_thinking
    for tag in _TAG.finditer(text):
        if {text[tag.start() - 1 : tag.start()], text[tag.end() : tag.end() + 1]} <= _QUOTES and tag.start():
            continue
        if tag[0] in _CLOSING:
            end, answer_from, is_open = tag.start(), tag.end(), False
        else:
            begin = begin or (tag.end() if not text[: tag.start()].strip() else 0)
            is_open = True
    if is_open:
        return Parts(text[begin:], "", is_open=True)
    return Parts(text[begin:end], text[answer_from:])


def ends_in_thinking(prompt: object) -> bool:
    """Whether a prompt ends in an opening tag, as chat templates of models that always think write it."""
    return isinstance(prompt, str) and prompt.rstrip().endswith(_OPENING)


def is_part_of_tag(token: str) -> bool:
    """Whether a special token of a tokenizer is a tag or stands in one: without it a text would not tell its parts."""
    return bool(token) and any(token in tag for pair in TAGS for tag in pair)
