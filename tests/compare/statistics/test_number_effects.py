"""Numbers of questions: where few differ, and what a few lost questions mean."""

from __future__ import annotations

import pytest

from runner_compare.metrics import BetterDirection
from runner_compare.statistics import Decision, Finding, MetricFlipTest, decide_comparisons_with_holm
from runner_compare.statistics.methods.metric_flips import MIN_DIFFERING
from runner_compare.statistics.stats import compute_paired_difference_interval

THEIRS = [0.0, 1.0, 1.0, 0.5, 0.2] * 20


def of(ours: list[float], better: BetterDirection = BetterDirection.higher) -> Decision:
    differences = [one - other for one, other in zip(ours, THEIRS, strict=True)]
    (decision,) = decide_comparisons_with_holm(
        [MetricFlipTest("f1", differences, [1.0] * len(ours), better, ours, THEIRS)]
    )
    return decision


def test_numbers_that_are_all_the_same_may_still_differ_in_other_questions() -> None:
    it = of(THEIRS)
    assert (it.low, it.high) == pytest.approx(compute_paired_difference_interval(0, 0, 100))
    assert (it.value, it.p, it.finding) == (0.0, 1.0, Finding.open)
    assert it.test.compute_p_value(-0.02) > 0.05 > it.test.compute_p_value(-0.2)


def test_few_differing_questions_count_by_the_range_of_the_numbers() -> None:
    it = of([0.9 if index < 2 else value for index, value in enumerate(THEIRS)])
    low, high = compute_paired_difference_interval(1, 1, 100)
    assert it.low == pytest.approx(low)
    assert it.high > high, "a gain of 0.9 is likelier than a loss of 0.1 to be missing here"
    many = of([value + 0.01 * (-1) ** index for index, value in enumerate(THEIRS)])
    assert many.high < 0.01 < high


@pytest.mark.parametrize("count", [8, MIN_DIFFERING - 1, MIN_DIFFERING, 40])
def test_lost_questions_are_found_and_the_interval_agrees(count: int) -> None:
    it = of([0.0 if index < count else value for index, value in enumerate(THEIRS)])
    assert it.finding is Finding.worse or it.p >= 0.05
    assert (it.high < 0) == (it.p < 0.05)
    assert of([0.0 if index < 40 else value for index, value in enumerate(THEIRS)]).finding is Finding.worse


def test_a_few_lost_questions_are_harder_to_detect_than_a_move_of_all() -> None:
    it = of([value + 0.001 * (-1) ** index for index, value in enumerate(THEIRS)])
    assert it.detectable is not None
    assert it.detectable_at_worst is not None
    assert it.detectable < 0.001, "all of them move by 0.001"
    assert it.detectable_at_worst > 0.05, "five lost questions of 100 would not be seen"
    assert not it.can_plan
    assert not it.can_plan_detection


@pytest.mark.parametrize("differing", [0, 1, MIN_DIFFERING - 1, MIN_DIFFERING])
def test_nothing_is_called_detectable_where_too_few_questions_differ_to_tell(differing: int) -> None:
    it = of([value + 0.001 * (index < differing) for index, value in enumerate(THEIRS)])
    is_known = differing >= MIN_DIFFERING
    assert (it.detectable is not None) == is_known
    assert (it.detectable_at_worst is not None) == is_known
