"""How many questions are needed: exact power, and what a small sample says about further
disagreement."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from runner_compare.statistics import SignFlipTest
from runner_compare.statistics.methods.mean_flips import MeanFlipTest
from runner_compare.statistics.planning import (
    compute_detection_power,
    compute_samples_to_detect_shift,
    compute_standard_error_bound_factors,
    estimate_disagreement_rate,
    find_smallest_detectable_difference,
    plan_questions_to_detect,
)
from runner_compare.statistics.ratios import find_detectable_ratio_difference
from runner_compare.statistics.stats import compute_exact_mcnemar_p_value


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    ("noise", "difference"), [(0.0, 0.05), (0.02, 0.01), (0.1, 0.05), (0.4, 0.3), (0.9, 0.5)]
)
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_the_power_is_the_sum_over_all_tables(noise: float, difference: float, alpha: float) -> None:
    n, rate = 60, min(1.0, noise + difference)
    loses = (rate + difference) / (2 * rate)
    power = 0.0
    for discordant in range(n + 1):
        for losses in range(discordant // 2 + 1, discordant + 1):
            if compute_exact_mcnemar_p_value(discordant - losses, losses) < alpha:
                power += binom.pmf(discordant, n, rate) * binom.pmf(losses, discordant, loses)
    assert compute_detection_power(n, noise, difference, alpha) == pytest.approx(power, abs=1e-7)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.4])
@pytest.mark.parametrize("difference", [0.02, 0.05, 0.2])
def test_the_planned_questions_detect_the_difference_with_the_planned_power(
    noise: float, difference: float
) -> None:
    for power in (0.8, 0.9):
        n = plan_questions_to_detect(noise, difference, 0.05 / 4, power)
        assert n is not None
        assert power <= compute_detection_power(n, noise, difference, 0.05 / 4) < power + 0.03
    assert plan_questions_to_detect(0.5, 1e-6) is None


def test_a_small_sample_without_disagreement_does_not_promise_that_there_will_be_none() -> None:
    assert estimate_disagreement_rate(0, 20) == pytest.approx(0.5 / 21)
    assert estimate_disagreement_rate(100, 1000) == pytest.approx(0.1, abs=0.001)
    assert estimate_disagreement_rate(0, 0) == 0.5


@pytest.mark.thorough
def test_the_planned_power_holds_on_average_over_small_samples() -> None:
    generator = np.random.default_rng(0)
    for rate in (0.05, 0.2):
        powers = []
        for discordant in generator.binomial(50, rate, size=200).tolist():
            needed = plan_questions_to_detect(estimate_disagreement_rate(discordant, 50), 0.05)
            assert needed is not None
            powers.append(compute_detection_power(needed, rate, 0.05))
        assert np.mean(powers) == pytest.approx(0.8, abs=0.03)


def test_samples_are_as_many_as_make_the_difference_detectable() -> None:
    needed = compute_samples_to_detect_shift(0.002, 200, 0.001)
    assert needed is not None
    shifts = [
        find_detectable_ratio_difference(0.002 * (200 / n) ** 0.5, n) for n in (needed, int(0.98 * needed))
    ]
    assert None not in shifts
    assert shifts[0] <= 0.001 < shifts[1]  # type: ignore[operator]
    asked = [(0.002, 0.05, 0.8), (0.001, 0.05, 0.8), (0.001, 0.01, 0.8), (0.001, 0.01, 0.9)]
    more = [compute_samples_to_detect_shift(0.002, 200, *it) for it in asked]
    assert all(one < other for one, other in pairwise(more))  # type: ignore[operator]
    assert compute_samples_to_detect_shift(0.002, 1, 0.001) is None
    assert compute_samples_to_detect_shift(1.0, 200, 1e-9) is None


@pytest.mark.parametrize(("n", "rate"), [(6, 0.0), (20, 0.0), (40, 0.05), (200, 0.0), (200, 0.02)])
def test_the_smallest_detectable_difference_is_exact(n: int, rate: float) -> None:
    """Its power is 80 %, and that of a difference which is shown as smaller is not: summed over all
    tables."""
    least = find_smallest_detectable_difference(n, rate)
    assert least is not None

    def power(difference: float) -> float:
        loss, win = rate / 2 + difference, rate / 2
        losses, wins = np.meshgrid(np.arange(n + 1), np.arange(min(n, 40) + 1))
        inside = losses + wins <= n
        chances = multinomial.pmf(
            np.stack([losses, wins, n - losses - wins], axis=-1)[inside],
            n,
            [loss, win, max(0.0, 1 - loss - win)],
        )
        found = 2 * binom.cdf(wins[inside], (wins + losses)[inside], 0.5) < 0.05
        return float(chances[found & (losses > wins)[inside]].sum())

    assert power(least) >= 0.8 > power(least - 0.0005)


def test_200_questions_without_a_discordant_pair_could_detect_4_points() -> None:
    assert 0.0392 < (find_smallest_detectable_difference(200, 0.0) or 1) <= 0.04
    assert find_smallest_detectable_difference(5, 0.0) is None
    assert find_smallest_detectable_difference(0, 0.0) is None


def test_a_spread_has_a_wider_interval_with_heavier_tails_and_then_no_upper_end() -> None:
    low, high = compute_standard_error_bound_factors(3.0, 100, 4.5)
    assert high is not None
    assert low < 1 < high
    heavier_low, heavier_high = compute_standard_error_bound_factors(4.4, 100, 4.5)
    assert heavier_high is not None
    assert heavier_low < low
    assert heavier_high > high
    assert compute_standard_error_bound_factors(4.6, 100, 4.5)[1] is None


@pytest.mark.parametrize("shift", [0.1, 0.3])
def test_a_plan_for_texts_and_for_clusters_lies_in_its_range(shift: float) -> None:
    generator = np.random.default_rng(3)
    texts = SignFlipTest(generator.normal(size=200).tolist(), [1.0] * 200, "token")
    answers = generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=600)
    clusters = MeanFlipTest(answers.tolist(), [index // 6 for index in range(600)], "template")
    for test in (texts, clusters):
        low, high = test.estimate_sample_size_interval(shift, 0.05)
        planned = test.plan_sample_size_for_margin(shift, 0.05)
        assert low is not None
        assert high is not None
        assert planned is not None
        assert low <= planned <= high


def test_the_plan_of_texts_with_a_heavy_tail_has_no_upper_end() -> None:
    differences = [*np.random.default_rng(0).normal(size=99).tolist(), 30.0]
    low, high = SignFlipTest(differences, [1.0] * 100, "token").estimate_detection_size_interval(0.5, 0.05)
    assert low is not None
    assert high is None
