"""A model's output: its answer, thinking, finish reason and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from runner_base.degeneration import find_loop_at_end
from runner_base.thinking import TAGS, SplitText, TagPositions, Tags, split_thinking

# keys of samples, as earlier versions wrote them
RENAMED = {"taken_from": "reused_from", "is_begun": "in_thinking"}


class FinishReason(StrEnum):
    """Reason why a completion ended, such as a stop token or the token limit."""

    stop = "stop"
    length = "length"  # generation.max_new_tokens
    context = "context"  # a larger limit would change nothing
    error = "error"
    cancelled = "cancelled"

    @property
    def is_cut_off(self) -> bool:
        """Whether a limit ended the completion."""
        return self in (FinishReason.length, FinishReason.context)


class Verdict(StrEnum):
    """Verdict on an answer. Only `correct` counts as solved."""

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"
    cut_off = "cut_off"


class Ending(StrEnum):
    """Phase in which an answer ended: during the thinking, after the thinking, or without any thinking."""

    no_thinking = "no_thinking"
    closed = "closed"
    cut_off_thinking = "cut_off_thinking"
    cut_off_answer = "cut_off_answer"
    budget_spent = "budget_spent"


@dataclass(frozen=True)
class Answer:
    """A text that a model generated, with its tokens, thinking, finish reason and verdict."""

    text: str  # without the thinking; earlier versions wrote the whole text, and then `ending` is not set
    token_ids: list[int]  # of thinking and answer
    finish_reason: FinishReason
    # if the tokens are only counted (by a server); None: as many as token_ids
    new_tokens: int | None = None
    thinking: str | None = None  # None: there was none
    # the prompt ended in an opening tag, so the text begins within the thinking
    in_thinking: bool = False
    extracted: dict[str, str | None] | None = None  # extractor's name -> what it found
    verdict: Verdict | None = None
    # that the model wrote between the tags; None: no thinking, or not known
    thinking_tokens: int | None = None
    answer_tokens: int | None = None  # behind the last closing tag; None: all tokens, or not known
    ending: Ending | None = None  # None: no thinking, or a text of an earlier version

    @classmethod
    def from_text(
        cls,
        text: str,
        token_ids: list[int],
        finish_reason: FinishReason,
        tags: Tags = TAGS,
        *,
        in_thinking: bool = False,
        thinking: str | None = None,
        is_spent: bool = False,
        closed: TagPositions = (),
        thinking_tokens: int | None = None,
        answer_tokens: int | None = None,
        new_tokens: int | None = None,
    ) -> Self:
        """Parse generated text, including thinking tags, into an answer.

        `thinking`: the thinking that a server sent separately; an empty one with tokens is one that
        the server hides. is_budget_spent: the thinking budget ended the thinking. forced_tags:
        positions of the tags that closed it.
        """
        parts = split_thinking(text, in_thinking and thinking is None, tags, closed)
        if thinking is not None:  # a server that sends it apart has found where it ends
            is_cut_off = not text.strip() and finish_reason is not FinishReason.stop
            parts = SplitText(thinking + parts.thinking, parts.answer, parts.is_open or is_cut_off)
        ending: Ending | None = None
        if parts.is_open:
            ending = Ending.cut_off_thinking
        elif parts.has_thinking or is_spent or (thinking is not None and thinking_tokens):
            is_cut_off = finish_reason.is_cut_off
            spent = Ending.budget_spent if is_spent else Ending.closed
            ending = Ending.cut_off_answer if is_cut_off else spent
        elif split_thinking(parts.answer, in_thinking).answer != parts.answer:
            # what the text alone would be read as
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
        """Parse a stored answer. Raises ValueError, KeyError or TypeError if it is malformed."""
        now = {RENAMED.get(key, key): value for key, value in values.items()}
        for key, kind in (("verdict", Verdict), ("ending", Ending)):
            if now.get(key) is not None:
                now[key] = kind(now[key])
        return cls(**now | {"finish_reason": FinishReason(now["finish_reason"])})

    def without_tokens(self) -> Self:
        return replace(self, token_ids=[], new_tokens=None)

    @property
    def num_tokens(self) -> int:
        """Number of generated tokens, including the thinking."""
        return len(self.token_ids) if self.new_tokens is None else self.new_tokens

    @property
    def is_stuck_in_loop(self) -> bool:
        """Whether a limit ended the completion while it repeated one unit."""
        if not self.finish_reason.is_cut_off:
            return False
        parts = self.parts
        return find_loop_at_end(parts.thinking if parts.is_open else parts.answer) is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether a higher limit could change the verdict. It cannot if the answer is stuck in a loop."""
        return self.finish_reason.is_cut_off and not self.is_stuck_in_loop

    @property
    def parts(self) -> SplitText:
        if self.ending is not None:
            return SplitText(self.thinking or "", self.text, self.ending is Ending.cut_off_thinking)
        if self.thinking is None:
            return split_thinking(self.text, self.in_thinking)
        return self.from_text(self.text, [], self.finish_reason, thinking=self.thinking).parts
