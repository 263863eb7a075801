"""Counts generated answers that degenerated, in total and by length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from runner_base import Sample
from runner_base.degeneration import Degeneration, measure_degeneration
from runner_compare.statistics import accuracy_interval

LENGTHS = (64, 256, 1024, 4096)  # new tokens; longer answers have a row of their own


class MeasuredAnswer(NamedTuple):
    """Signs of degeneration in one answer."""

    question: int
    cluster: str | None
    num_tokens: int
    signs: Degeneration
    is_stuck: bool  # a limit cut the answer off in a loop


def measure_answers(samples: Sequence[Sample]) -> list[MeasuredAnswer]:
    """Measure the degeneration of all generated answers. Errors and scored texts are no answers."""
    return [
        MeasuredAnswer(
            sample.index,
            sample.cluster,
            answer.num_tokens,
            measure_degeneration(answer.text),
            answer.is_stuck_in_loop,
        )
        for sample in samples
        if not sample.failed and not sample.is_scored
        for answer in sample.answers
    ]


def compute_degeneration_metrics(answers: Sequence[MeasuredAnswer]) -> dict[str, float]:
    if not answers:
        return {}
    signs = [answer.signs for answer in answers]
    return {
        "degenerate": sum(each.is_degenerate for each in signs),
        **_compute_share(answers),
        "loops": sum(each.loop is not None for each in signs),
        "script_changes": sum(each.has_script_change for each in signs),
        "broken_characters": sum(each.has_broken_characters for each in signs),
        "empty_answers": sum(each.is_empty for each in signs),
        "repeated_ngram_share": math.fsum(each.repeated_ngram_share for each in signs) / len(signs),
        "distinct_word_share": math.fsum(each.distinct_word_share for each in signs) / len(signs),
    }


def build_degeneration_rows(answers: Sequence[MeasuredAnswer]) -> list[dict[str, Any]]:
    """Return the share of degenerate answers by length. Empty if no answer degenerated."""
    if not any(answer.signs.is_degenerate for answer in answers):
        return []
    by_length: dict[float, list[MeasuredAnswer]] = {}
    for answer in answers:
        limit = next((limit for limit in LENGTHS if answer.num_tokens <= limit), math.inf)
        by_length.setdefault(limit, []).append(answer)
    return [
        {
            "new_tokens": "more" if limit == math.inf else f"≤ {limit:,}",
            "answers": len(of_length),
            **{
                f"{key.replace('_share', '')}_percent": round(100 * value, 1)
                for key, value in _compute_share(of_length).items()
            },
            "loops": sum(answer.signs.loop is not None for answer in of_length),
        }
        for limit, of_length in sorted(by_length.items())
    ]


def _compute_share(answers: Sequence[MeasuredAnswer]) -> dict[str, float]:
    """Return the share of degenerate answers with its 95 % interval over questions or clusters."""
    by_question: dict[int, list[MeasuredAnswer]] = {}
    for answer in answers:
        by_question.setdefault(answer.question, []).append(answer)
    of_questions = [*by_question.values()]
    shares = [sum(answer.signs.is_degenerate for answer in each) / len(each) for each in of_questions]
    low, high = accuracy_interval(
        shares, [each[0].cluster for each in of_questions], [*map(len, of_questions)]
    )
    return {
        "degenerate_share": math.fsum(shares) / len(shares),
        "degenerate_share_low": low,
        "degenerate_share_high": high,
    }
