"""Computes statistical power and the required number of questions, with or without early stopping."""

from __future__ import annotations

from runner_compare.statistics.early_stop_plans import (
    find_early_stop_detectable_loss,
    plan_early_stopping_sample_size,
)
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from runner_compare.statistics.planning import find_smallest_detectable_difference


def find_detectable_accuracy_loss(
    questions: int,
    disagreement_rate: float,
    alpha: float,
    stops_early: bool = False,
    margin: float | None = None,
) -> float | None:
    """Return the smallest accuracy loss that a job detects with 80 % power, or None.

    A job with early stopping also decides about `margin` before it stops.
    """
    if not stops_early:
        return find_smallest_detectable_difference(questions, disagreement_rate, alpha)
    return find_early_stop_detectable_loss(questions, disagreement_rate, alpha, margin)


def plan_questions_for_margin(
    margin: float, disagreement_rate: float, alpha: float, stops_early: bool = False, has_margin: bool = False
) -> int | None:
    """Return the number of questions needed to show non-inferiority if both runs are equally good."""
    fixed = compute_non_inferiority_sample_size(margin, disagreement_rate, alpha)
    if fixed is None or not stops_early:
        return fixed
    return plan_early_stopping_sample_size(margin, disagreement_rate, alpha, fixed, has_margin)
