"""Who gave answers that can be of several, such as a student and a teacher: their answers, calls and tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from runner.core.result import Call, FinishReason


class Attributed(Protocol):
    """An answer, and what stands behind it: a sample, a call, a completion."""

    finish_reason: FinishReason
    calls: list[Call] | None
    by: str | None


def sides(said: Iterable[Attributed]) -> dict[str, float]:
    """Add up answers, and the calls behind them with their tokens, by who gave them."""
    counts: Counter[str] = Counter()
    for one in said:
        for call in one.calls or []:
            counts.setdefault(f"{call.who}_answers", 0)
            counts[f"{call.who}_calls"] += 1
            counts[f"{call.who}_prompt_tokens"] += call.prompt_tokens
            counts[f"{call.who}_new_tokens"] += call.tokens
        if one.calls and one.by is not None and one.finish_reason is not FinishReason.error:
            counts[f"{one.by}_answers"] += 1
    return dict(counts)


def answered_by(said: Iterable[Attributed]) -> str:
    """Say who gave how many of the answers; empty where it can be one only."""
    given = Counter(one.by for one in said if one.by is not None and one.finish_reason is not FinishReason.error)
    return ", ".join(f"{who} {number}" for who, number in given.most_common())
