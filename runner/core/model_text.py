"""What a model wrote is thinking and an answer: the one place that tells the two apart.

Tags come from one short table. Only what follows the last closing tag is an answer, also where the chat template has
written the opening tag, so that the text has only a closing one. A text that ends in its thinking has no answer. A tag
directly between quotes or backticks is one that the text speaks of, and does not count; in a block of code it counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

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


class FinishReason(StrEnum):
    """Why a completion ended: by itself or at a stop string, at the token limit, in an error, or cancelled."""

    stop = "stop"
    length = "length"
    error = "error"
    cancelled = "cancelled"


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


class ModelText:
    """A text that a model wrote, with tokens that are known, or only counted (by a server)."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    new_tokens: int | None
    thinking: str | None  # that a server sent apart from the text; None: it sent none
    in_thinking: bool  # the prompt ended in an opening tag, so the text begins within the thinking

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
