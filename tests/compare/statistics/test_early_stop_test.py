"""The final test of a job with early stopping: what it decides, what it may not, and how often it is wrong."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from runner_compare.statistics import ALPHA, SequentialTest
from runner_compare.statistics.early_stop_test import (
    FINAL_TEST_USED,
    ONLY_SEQUENTIAL,
    WITH_FINAL_TEST,
    EarlyStopPairs,
    ErrorParts,
)
from runner_compare.statistics.sequential import Side
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value, compute_wilson_interval

Pair = tuple[bool, bool]
WIN, LOSS, TIE = (True, False), (False, True), (True, True)
# wins and losses by turns, so that the anytime-valid test never sees a run of either
EQUAL = [LOSS, *[TIE] * 9, WIN, *[TIE] * 9] * 100
WORSE = [LOSS, LOSS, WIN] * 26


def ended(
    pairs: Iterable[Pair], parts: ErrorParts, level: float = ALPHA, margin: float = 0.02
) -> EarlyStopPairs:
    seen = EarlyStopPairs(level, margin, parts)
    for solved, base_solved in pairs:
        seen.add_pair(solved, base_solved)
    seen.run_final_test()
    return seen


def test_the_parts_are_the_whole_error_rate() -> None:
    assert WITH_FINAL_TEST.sequential + WITH_FINAL_TEST.final == ONLY_SEQUENTIAL.sequential == 1
    assert FINAL_TEST_USED.sequential == WITH_FINAL_TEST.sequential


@pytest.mark.parametrize("parts", [ONLY_SEQUENTIAL, FINAL_TEST_USED])
def test_without_its_part_the_final_test_decides_nothing(parts: ErrorParts) -> None:
    seen = ended(EQUAL, parts)
    assert (seen.final, seen.decision, seen.margin_decision) == (None, Side.open, Side.open)
    assert seen.interval == (seen.sequential.interval_low, seen.sequential.interval_high)


def test_the_final_test_decides_what_the_always_valid_test_left_open() -> None:
    seen = ended(EQUAL, WITH_FINAL_TEST)
    assert (seen.sequential.from_margin, seen.margin_decision) == (Side.open, Side.better)
    assert seen.interval[0] > -0.02
    worse = ended(WORSE, WITH_FINAL_TEST)
    assert (worse.sequential.decision, worse.decision) == (Side.open, Side.worse)
    assert worse.p == pytest.approx(compute_exact_mcnemar_p_value(26, 52) / WITH_FINAL_TEST.final)
    assert worse.interval[1] < 0


def test_each_decision_agrees_with_its_p_value_and_the_interval() -> None:
    generator = random.Random(4)
    decisions = set()
    for lost in (0.1, 0.2, 0.3):
        for level in (ALPHA, ALPHA / 4):
            for _ in range(15):
                draws = [generator.random() for _ in range(150)]
                pairs = [WIN if draw < 0.1 else LOSS if draw > 1 - lost else TIE for draw in draws]
                seen = ended(pairs, WITH_FINAL_TEST, level)
                decisions.add((seen.sequential.decision, seen.decision))
                low, high = seen.interval
                assert (seen.decision is not Side.open) == (seen.p <= level) == (not low <= 0 <= high)
                assert (seen.margin_decision is not Side.open) == (not low <= -0.02 <= high)
                assert seen.decide_side_of_null(-0.02) is seen.margin_decision
    assert (Side.open, Side.worse) in decisions, "no pairs that only the final test decided"


def test_a_comparison_uses_the_final_test_only_at_the_limit() -> None:
    before, at_limit = (
        SequentialTest(WORSE, 1, WITH_FINAL_TEST, is_at_limit) for is_at_limit in (False, True)
    )
    assert before.decide_side_of_null(0.0) is Side.open
    assert at_limit.decide_side_of_null(0.0) is Side.worse
    assert at_limit.effect.p == at_limit.compute_p_value(0.0) < ALPHA < before.effect.p
    assert at_limit.effect.high < 0 <= before.effect.high


@pytest.mark.thorough
def test_both_tests_together_keep_the_error_rate_at_a_difference_of_the_margin() -> None:
    generator, trials, wrong = random.Random(9), 400, 0
    for _ in range(trials):
        draws = [generator.random() for _ in range(300)]
        seen = ended(
            [LOSS if draw < 0.06 else WIN if draw > 0.96 else TIE for draw in draws], WITH_FINAL_TEST
        )
        wrong += seen.margin_decision is not Side.open
    assert compute_wilson_interval(wrong, trials)[0] <= ALPHA, wrong
