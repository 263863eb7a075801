"""What so many questions can show, and how many show a margin: of a single look at the end, or of
bets on the way."""

from __future__ import annotations

from runner_compare.statistics.margins import questions_needed
from runner_compare.statistics.planning import smallest_detectable
from runner_compare.statistics.sequential_plans import early_stop_detectable, early_stop_questions


def detectable_loss(
    questions: int, disagreement: float, alpha: float, stops_early: bool = False, margin: float | None = None
) -> float | None:
    """Return the smallest loss that a job detects with the promised power; None without one.

    `margin`: the one that is to be decided before a job stops early.
    """
    if not stops_early:
        return smallest_detectable(questions, disagreement, alpha)
    return early_stop_detectable(questions, disagreement, alpha, margin)


def questions_for_margin(
    margin: float, disagreement: float, alpha: float, stops_early: bool = False, has_margin: bool = False
) -> int | None:
    """Return how many questions show with the promised power that a job is as good, if neither is
    better."""
    fixed = questions_needed(margin, disagreement, alpha)
    if fixed is None or not stops_early:
        return fixed
    return early_stop_questions(margin, disagreement, alpha, fixed, has_margin)
