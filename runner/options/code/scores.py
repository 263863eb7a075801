"""Counts programs by outcome, and estimates pass@k with its 95 % interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from runner.options.code.judging import OUTCOME, OUTCOMES, REASON
from runner_base import Sample
from runner_compare.statistics import VoteCounts, accuracy_interval
from runner_compare.statistics.votes import reported_answer_counts


def count_outcomes(samples: Sequence[Sample]) -> dict[str, float]:
    counts = Counter((answer.extracted or {}).get(OUTCOME) for sample in samples for answer in sample.answers)
    return {f"programs/{outcome}": counts[outcome] for outcome in OUTCOMES}


def build_program_outcome_rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return each outcome with its most frequent reason, most frequent outcome first."""
    recorded = [answer.extracted or {} for sample in samples for answer in sample.answers]
    rows = []
    for outcome in OUTCOMES:
        reasons = [each.get(REASON) for each in recorded if each.get(OUTCOME) == outcome]
        known = Counter(reason for reason in reasons if reason)
        reason, count = next(iter(known.most_common(1)), ("", 0))
        if reasons:
            rows.append(
                {
                    "outcome": outcome,
                    "programs": len(reasons),
                    "most_frequent_reason": reason[:60],
                    "how_often": count,
                }
            )
    return sorted(rows, key=lambda row: -row["programs"])


def compute_pass_at_k(
    num_solved: Sequence[int], num_samples: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return pass@k for k = 1, 2, 4 …, as metrics and as table rows with 95 % intervals.

    `num_solved` has the number of right answers to each problem.
    """
    if num_samples == 1:
        return {}, []
    metrics: dict[str, float] = {"answers_each": num_samples}
    rows = []
    # programs do not vote
    counts = [VoteCounts((), (), num_samples, solved) for solved in num_solved]
    for k in reported_answer_counts(num_samples):
        values = [each.estimate_pass_at_k(k) for each in counts]
        low, high = accuracy_interval(values, [None] * len(values))
        metrics |= {f"pass_at_k/{k}": fmean(values), f"pass_at_k_low/{k}": low, f"pass_at_k_high/{k}": high}
        rows.append({"k": k, "pass@k": fmean(values), "low": low, "high": high})
    return metrics, rows
