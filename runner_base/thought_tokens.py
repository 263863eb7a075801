"""Counts tokens of thinking and answers, and counts how answers ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from runner_base.model_text import Answer, Ending
from runner_base.result import Sample


def count_thinking_tokens(answer: Answer) -> int | None:
    """Return the number of thinking tokens. 0 without thinking, None if the tokens were not counted."""
    if answer.thinking_tokens is None and answer.parts.has_thinking:
        return None
    return answer.thinking_tokens or 0


def count_answer_tokens(answer: Answer) -> int | None:
    """Return the number of tokens after the thinking, or None if tokens were not counted."""
    if answer.answer_tokens is not None:
        return answer.answer_tokens
    return None if answer.parts.has_thinking else answer.num_tokens


def compute_mean_tokens(
    count_tokens: Callable[[Answer], int | None], answers: Sequence[Answer]
) -> float | None:
    """Return the mean number of tokens per answer, or None if the token count of any answer is unknown."""
    counts = [count_tokens(answer) for answer in answers]
    known = [count for count in counts if count is not None]
    return fmean(known) if known and len(known) == len(counts) else None


def compute_thinking_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the mean number of thinking tokens, and the count of each kind of answer ending."""
    answers = [answer for sample in samples if not sample.failed for answer in sample.answers]
    if all(answer.ending in (None, Ending.no_thinking) for answer in answers):
        return {}
    endings = Counter(answer.ending or Ending.no_thinking for answer in answers)
    means = {
        "thinking_tokens_per_answer": compute_mean_tokens(count_thinking_tokens, answers),
        "answer_tokens_per_answer": compute_mean_tokens(count_answer_tokens, answers),
    }
    return {
        **{key: mean for key, mean in means.items() if mean is not None},
        "thought_share": fmean(answer.parts.has_thinking for answer in answers),
        **{f"endings/{ending}": float(endings[ending]) for ending in Ending},
    }
