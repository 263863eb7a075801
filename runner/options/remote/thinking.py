"""Parses thinking text and thinking tokens in server responses, and counts answers over the thinking
budget.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from runner.options.remote.server_text import parse_token_count
from runner.options.remote.thinking_budget import MARGIN
from runner_base import Answer, FinishReason
from runner_base.model_text import Ending
from runner_base.notes import Note, note

IN_PROMPT = 1  # the line break that templates write behind an opening tag: vLLM counts it for the budget
APART = ("reasoning_content", "reasoning")  # where servers send thinking; never in both


class TokenUsage(NamedTuple):
    """Token counts that a server reports for one request."""

    prompt_tokens: int
    new_tokens: int  # of thinking and answer
    thinking_tokens: int | None = None  # among them; None: the server does not say


def extract_thinking(stream_delta: Any) -> str:
    """Return the thinking text in a chunk of a streamed response.

    Servers send it in a separate field, under one of two names.
    """
    named = (getattr(stream_delta, name, None) for name in APART)
    return next((value for value in named if value and isinstance(value, str)), "")


def parse_token_usage(response: Any) -> TokenUsage | None:
    usage = response.usage
    names = ("prompt_tokens", "completion_tokens")
    values = [getattr(usage, name, None) for name in names]
    if None in values:
        return None
    prompt, new = (
        parse_token_count(f"usage.{name}", value) for name, value in zip(names, values, strict=True)
    )
    thinking = _parse_thinking_tokens(usage)
    total = getattr(usage, "total_tokens", None)
    if thinking and (
        thinking > new or total == prompt + new + thinking
    ):  # OpenAI counts them among the new ones
        new += thinking
    return TokenUsage(prompt, new, thinking)


def _parse_thinking_tokens(usage: Any) -> int | None:
    """Return the number of thinking tokens from a field of OpenAI or SGLang, or None if both are missing."""
    for name, owner in (
        ("completion_tokens_details.", getattr(usage, "completion_tokens_details", None)),
        ("", usage),
    ):
        value = getattr(owner, "reasoning_tokens", None)
        if value is not None:
            return parse_token_count(f"usage.{name}reasoning_tokens", value)
    return None


def is_thinking_budget_spent(thinking_tokens: int | None, budget: int | None) -> bool:
    if not thinking_tokens or budget is None:
        return False
    return budget - IN_PROMPT <= thinking_tokens <= budget + MARGIN


class BudgetCounts:
    """Counts the answers that exceed the thinking budget, and makes notes about them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count_thinking_budget_outcome(self, answer: Answer, budget: int, max_answer_tokens: int) -> None:
        """Count an answer. `max_answer_tokens` excludes thinking."""
        self._counts["answers"] += 1
        tokens = answer.thinking_tokens
        is_cut_off = answer.ending is Ending.cut_off_thinking and answer.finish_reason is FinishReason.length
        # one that is cut off by the limit of tokens was longer than budget and margin, too
        self._counts["ignored"] += is_cut_off if tokens is None else tokens > budget + MARGIN
        self._counts["uncounted"] += tokens is None and answer.thinking is not None and not is_cut_off
        self._counts["longer"] += (answer.answer_tokens or 0) > max_answer_tokens + MARGIN

    def make_notes(self, model_key: str) -> list[Note]:
        counts = self._counts
        answers, notes = counts["answers"], []
        if ignored := counts["ignored"]:
            notes.append(note("budget_ignored", "warning", ignored=ignored, answers=answers, key=model_key))
        if unknown := counts["uncounted"]:
            notes.append(note("thinking_uncounted", "warning", unknown=unknown, answers=answers))
        if longer := counts["longer"]:
            notes.append(note("longer_than_limit", "warning", longer=longer, answers=answers))
        return notes
