"""Counts answers, calls and tokens by who gave them, if several sides answer, such as a student and a teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from runner.core.result import Call, FinishReason


class Attributed(Protocol):
    """An answer and the calls that it took: a sample, a call, a completion."""

    finish_reason: FinishReason
    calls: list[Call] | None
    by: str | None


def sides(answers: Iterable[Attributed]) -> dict[str, float]:
    """Count answers, and the calls that they took with their tokens, by who gave them."""
    counts: Counter[str] = Counter()
    for one in answers:
        for call in one.calls or []:
            counts.setdefault(f"{call.who}_answers", 0)
            counts[f"{call.who}_calls"] += 1
            counts[f"{call.who}_prompt_tokens"] += call.prompt_tokens
            counts[f"{call.who}_new_tokens"] += call.tokens
        if one.calls and one.by is not None and one.finish_reason is not FinishReason.error:
            counts[f"{one.by}_answers"] += 1
    return dict(counts)


def answered_by(answers: Iterable[Attributed]) -> str:
    """Say who gave how many of the answers; empty if only one side can answer."""
    given = Counter(one.by for one in answers if one.by is not None and one.finish_reason is not FinishReason.error)
    return ", ".join(f"{who} {number}" for who, number in given.most_common())
