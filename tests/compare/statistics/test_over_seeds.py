"""Means over questions and seeds: their intervals hold the truth where it is known, and those of
questions alone do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as reference

from runner_compare.statistics import ALPHA, MeanFlipTest, Method, SeedTest, stats
from runner_compare.statistics.seed_means import (
    CrossedMean,
    ErrorComponent,
    compute_accuracy_interval_over_seeds,
    compute_combined_error_bound,
    compute_difference_p_value,
    compute_exact_interval_over_seeds,
    compute_seed_errors,
    estimate_question_sampling_error,
)


def drawn(draw: np.random.Generator, seeds: int, questions: int, apart: float) -> list[list[bool]]:
    """Answers of several seeds with an accuracy of 70 % in the mean: `apart` is the standard
    deviation of seeds."""
    hard, of_seed = draw.normal(size=questions), apart * draw.normal(size=(seeds, 1))
    scale = math.sqrt(1 + apart**2 + 0.25)
    bar = scale * reference.norm.ppf(0.7)
    solved: list[list[bool]] = (of_seed + hard + 0.5 * draw.normal(size=(seeds, questions)) < bar).tolist()
    return solved


def test_the_parts_of_the_error_are_those_of_questions_and_of_seeds() -> None:
    values = [[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]]
    mean = CrossedMean.from_values(values)
    by_question, by_seed = np.mean(values, axis=0), np.mean(values, axis=1)
    assert mean.mean == pytest.approx(np.mean(values))
    assert [part.variance for part in mean.parts] == pytest.approx(
        [np.var(by_question, ddof=1) / 4, np.var(by_seed, ddof=1) / 3]
    )
    assert [part.freedom for part in mean.parts] == [3, 2]
    assert len(CrossedMean.from_values(values[:1]).parts) == 1, "one seed shows nothing about others"
    apart = CrossedMean.from_difference(values, [[0.0] * 4])
    assert apart.mean == pytest.approx(mean.mean)
    assert len(apart.parts) == 2, "the baseline has one seed"
    assert CrossedMean.from_values([[1.0]]).compute_interval() == (-math.inf, math.inf)


def test_questions_of_a_family_count_as_one() -> None:
    alone, twins = (
        estimate_question_sampling_error([0.0, 1.0, 1.0]),
        estimate_question_sampling_error([0.0, 0.0, 1.0, 1.0, 1.0, 1.0], list("aabbcc")),
    )
    assert twins.variance == pytest.approx(alone.variance)
    assert twins.freedom == 2


def test_p_and_interval_agree_with_students_t() -> None:
    part = ErrorComponent(4.0, 7)
    assert compute_difference_p_value([part], 3.0) == pytest.approx(2 * reference.t.sf(1.5, 7), rel=1e-4)
    both = [part, ErrorComponent(1.0, 2)]
    assert compute_difference_p_value(both, compute_combined_error_bound(both, ALPHA, True)) == pytest.approx(
        ALPHA, rel=1e-4
    )
    assert compute_difference_p_value(
        both, -compute_combined_error_bound(both, 0.001, False)
    ) == pytest.approx(0.001, rel=1e-3)
    assert compute_difference_p_value(both, 0.0) == 1.0


@pytest.mark.thorough
@pytest.mark.parametrize(("seeds", "apart"), [(2, 0.2), (3, 0.4), (5, 0.0), (5, 0.4)])
def test_the_interval_of_an_accuracy_counts_seeds(seeds: int, apart: float) -> None:
    """The control counts questions only: it misses the accuracy over all seeds where these are
    apart."""
    draw, jobs = np.random.default_rng(seeds), 200
    inside, alone = 0, 0
    for _ in range(jobs):
        solved = drawn(draw, seeds, 150, apart)
        low, high = compute_accuracy_interval_over_seeds(solved)
        inside += low <= 0.7 <= high
        part = estimate_question_sampling_error(np.mean(solved, axis=0).tolist())
        alone += bool(abs(np.mean(solved) - 0.7) <= part.compute_mean_error_bound(ALPHA, True))
    assert stats.compute_wilson_interval(inside, jobs)[1] >= 0.94
    if apart == 0.4:
        assert stats.compute_wilson_interval(alone, jobs)[1] < 0.90


def test_the_interval_at_the_ends_is_not_empty() -> None:
    low, high = compute_accuracy_interval_over_seeds([[True] * 40] * 5)
    assert high == 1.0
    assert 0.8 < low < 0.95, "as 40 questions show, and not as 200 answers"
    assert compute_accuracy_interval_over_seeds([[False] * 40] * 5) == pytest.approx((0.0, 1 - low))
    assert compute_accuracy_interval_over_seeds([[True], [True]]) == (0.0, 1.0), "one question"
    few = compute_accuracy_interval_over_seeds([[True] * 40] * 5, [index // 10 for index in range(40)])
    assert few[0] < low, "four families say less"


@pytest.mark.thorough
def test_equal_teams_whose_seeds_are_apart_are_seldom_called_different() -> None:
    """The same pairs by questions alone: far more than 5 % are called different."""
    draw, pairs = np.random.default_rng(1), 150
    wrong, alone, missed = 0, 0, 0
    for _ in range(pairs):
        sides = [drawn(draw, 5, 200, 0.4) for _ in range(2)]
        ours, theirs = (np.mean(side, axis=0) for side in sides)
        by_questions = MeanFlipTest((ours - theirs).tolist(), samples=5)
        effect = SeedTest(
            by_questions, *([float(np.mean(of_seed)) for of_seed in side] for side in sides)
        ).effect
        wrong += effect.p < ALPHA
        alone += by_questions.effect.p < ALPHA
        missed += not effect.low <= 0 <= effect.high
        assert effect.low <= by_questions.effect.value <= effect.high
    assert stats.compute_wilson_interval(wrong, pairs)[0] <= 0.05
    assert missed <= wrong
    assert alone > 0.3 * pairs


@pytest.mark.thorough
def test_a_true_difference_is_shown_and_its_words_name_the_seeds() -> None:
    draw = np.random.default_rng(2)
    base, worse = drawn(draw, 5, 200, 0.1), []
    for of_seed in drawn(draw, 5, 200, 0.1):
        worse.append([it and draw.random() < 0.6 for it in of_seed])
    gaps = (np.mean(worse, axis=0) - np.mean(base, axis=0)).tolist()
    means = ([float(np.mean(of_seed)) for of_seed in side] for side in (worse, base))
    test = SeedTest(MeanFlipTest(gaps, samples=5), *means)
    effect = test.effect
    assert (effect.method, effect.counts["grouping"]) == (Method.over_seeds, ", mean of 5 seeds")
    assert effect.p < 0.01
    assert effect.high < 0
    assert test.knows_power
    assert 0 < (test.detectable_difference(ALPHA) or 0) < 0.3
    families = SeedTest(
        MeanFlipTest(gaps, [index // 4 for index in range(200)], "story", 5), [0.5, 0.6], [0.5, 0.6]
    )
    assert families.effect.counts["grouping"] == ", mean of 2 seeds, in 50 clusters by story"
    assert compute_seed_errors([0.5]) == []


@pytest.mark.thorough
def test_an_end_over_seeds_is_at_least_that_of_questions_and_that_of_seeds() -> None:
    """3 % of the questions are never solved: the upper end of Student's t alone missed in up to 7
    %."""
    draw, times = np.random.default_rng(3), 400
    missed = {compute_accuracy_interval_over_seeds: 0, compute_exact_interval_over_seeds: 0}
    for _ in range(times):
        solvable = draw.random(50) >= 0.03
        for interval in missed:
            missed[interval] += interval([solvable.tolist()] * 3)[1] < 0.97
    assert missed[compute_exact_interval_over_seeds] <= 0.025 * times + 2 * math.sqrt(0.025 * times)
    assert missed[compute_accuracy_interval_over_seeds] > missed[compute_exact_interval_over_seeds]
    apart = [[True] * 50, [True] * 45 + [False] * 5, [True] * 40 + [False] * 10]
    (low, high), (exact_low, exact_high) = (
        compute_accuracy_interval_over_seeds(apart),
        compute_exact_interval_over_seeds(apart),
    )
    assert exact_low <= low < high <= exact_high
