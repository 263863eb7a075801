"""Power and numbers of questions, for fixed sample sizes or early stopping."""

from __future__ import annotations

from runner_compare.statistics.early_stop_plans import early_stop_detectable_loss, early_stop_questions_needed
from runner_compare.statistics.margins import paired_questions_needed
from runner_compare.statistics.planning import smallest_detectable_difference


def detectable_accuracy_loss(
    questions: int, disagreement: float, alpha: float, stops_early: bool = False, margin: float | None = None
) -> float | None:
    """Return the smallest accuracy loss that a job detects with 80 % power, or None.

    `margin`: the one to be decided before a job stops early.
    """
    if not stops_early:
        return smallest_detectable_difference(questions, disagreement, alpha)
    return early_stop_detectable_loss(questions, disagreement, alpha, margin)


def questions_needed_for_margin(
    margin: float, disagreement: float, alpha: float, stops_early: bool = False, has_margin: bool = False
) -> int | None:
    """Return how many questions show non-inferiority with 80 % power if neither run is better."""
    fixed = paired_questions_needed(margin, disagreement, alpha)
    if fixed is None or not stops_early:
        return fixed
    return early_stop_questions_needed(margin, disagreement, alpha, fixed, has_margin)
