"""Ratios of sums over samples, and the sign-flip test, against their definitions and scipy."""

from __future__ import annotations

import math
from random import Random

import pytest
from scipy import stats as reference

from runner_compare.statistics import FLIPS
from runner_compare.statistics.ratios import (
    ENOUGH,
    MIN_TEXTS,
    compute_paired_p_value,
    compute_paired_ratio_interval,
    compute_ratio_interval,
    compute_ratio_standard_error,
    compute_sign_flip_p_value,
    find_detectable_concentrated_loss,
    find_detectable_ratio_difference,
    get_one_sided_p_value_factor,
    get_p_value_factor,
    kurtosis,
    ratio_of_sums,
    remove_skewness,
    restore_skewness,
    skewness,
)

TOKENS = [10.0, 80.0, 35.0, 120.0, 60.0, 5.0]
NATS = [-3.0, -20.5, -9.0, -28.0, -17.0, -2.0]


def test_few_or_infinite_samples_have_no_interval_and_ends_stay_in_the_possible_range() -> None:
    values = [0.1, 0.5] * (MIN_TEXTS // 2)
    ones = [1.0] * MIN_TEXTS
    assert compute_ratio_interval(values[:-1], ones[:-1]) is None
    assert compute_ratio_interval([math.inf, *values[1:]], ones) is None
    half = reference.t.ppf(1 - 0.05 / get_one_sided_p_value_factor(MIN_TEXTS) / 2, MIN_TEXTS - 1)
    expected = half * reference.sem(values)
    assert compute_ratio_interval(values, ones) == pytest.approx((0.3 - expected, 0.3 + expected))
    assert compute_ratio_interval(values, ones, lower=0.29, upper=0.31) == (0.29, 0.31)


def test_each_end_of_an_interval_is_farther_than_that_of_paired_differences() -> None:
    draw = Random(4)
    skewed, ones = [draw.expovariate(1) for _ in range(60)], [1.0] * 60
    low, high = compute_ratio_interval(skewed, ones) or (0.0, 0.0)
    cautious_low, cautious_high = compute_paired_ratio_interval(skewed, ones)
    assert low < cautious_low
    assert high > cautious_high
    assert high - ratio_of_sums(skewed, ones) > 1.1 * (ratio_of_sums(skewed, ones) - low)


def test_the_error_counts_samples_and_not_tokens() -> None:
    centre = sum(NATS) / sum(TOKENS)
    residuals = [nats - centre * tokens for nats, tokens in zip(NATS, TOKENS, strict=True)]
    expected = math.sqrt(6 / 5 * sum(one * one for one in residuals)) / sum(TOKENS)
    assert ratio_of_sums(NATS, TOKENS) == pytest.approx(centre)
    assert compute_ratio_standard_error(NATS, TOKENS) == pytest.approx(expected)
    assert compute_ratio_standard_error([1.0], [2.0]) == math.inf


@pytest.mark.parametrize("shift", [0.0, 0.4, 2.0])
def test_few_flips_are_counted_as_scipy_counts_them(shift: float) -> None:
    draw = Random(1)
    values = [draw.gauss(shift, 1) for _ in range(9)]
    expected = reference.permutation_test(
        (values,), sum, permutation_type="samples", n_resamples=math.inf
    ).pvalue
    assert compute_sign_flip_p_value(values) == pytest.approx(expected)


def test_many_flips_are_drawn_alike_each_time_and_come_near_the_exact_p() -> None:
    draw = Random(2)
    values = [draw.gauss(0.5, 1) + 0.2 for _ in range(20)]
    # the studentized sum, near normal
    t = sum(values) / math.sqrt(sum(one * one for one in values))
    assert (
        compute_sign_flip_p_value(values)
        == compute_sign_flip_p_value(values)
        == pytest.approx(2 * reference.norm.sf(t), rel=0.25)
    )
    assert compute_sign_flip_p_value([1.0] * 40) == 1 / 10_000
    assert compute_sign_flip_p_value([0.0] * 40) == 1.0
    assert compute_sign_flip_p_value([3.0, 0.0, 0.0]) == 1.0  # one sample alone may be either way


@pytest.mark.parametrize(("n", "shift"), [(15, 0), (50, 0), (203, 0), (203, 1)])
def test_flips_are_drawn_as_bits_of_pythons_generator(n: int, shift: int) -> None:
    # many sums are equal
    values = [float(it) for it in Random(n).choices([-3, -2, -1, 1, 2, 3 + shift], k=n)]
    draw, reached, drawn = Random(0).randbytes, 0, 0
    while drawn < FLIPS and reached < ENOUGH:
        drawn += 1
        bits = int.from_bytes(draw(-(-n // 8)), "little")
        flipped = sum(it if bits >> at & 1 else -it for at, it in enumerate(values))
        reached += abs(flipped) >= abs(sum(values))
    assert compute_sign_flip_p_value(values) == (
        reached / drawn if reached == ENOUGH else (1 + reached) / (1 + FLIPS)
    )


def test_the_verdict_asks_for_the_larger_p_of_flips_and_of_halls_test_so_many_times_that_few_samples_allow() -> (
    None
):
    draw = Random(2)
    values, ones = [draw.gauss(0.5, 1) + 0.2 for _ in range(20)], [1.0] * 20
    t, skew = reference.ttest_1samp(values, 0).statistic, reference.skew(values)
    by_hall = 2 * reference.t.sf(abs(remove_skewness(t, skew / math.sqrt(20))), 19)
    assert compute_paired_p_value(values, ones) == pytest.approx(
        4 * max(compute_sign_flip_p_value(values), by_hall)
    )
    assert compute_paired_p_value(values, ones, 2.0) == pytest.approx(
        2 * max(compute_sign_flip_p_value(values), by_hall)
    )
    assert [get_p_value_factor(samples) for samples in (50, 79, 80, 199, 200)] == [4.0, 4.0, 3.0, 3.0, 2.0]
    assert compute_paired_p_value([1.0, -1.0], [1.0, 1.0]) == 1.0
    assert compute_paired_p_value([0.0, 0.0], [1.0, 1.0]) == 1.0
    assert compute_paired_p_value([1.0] * 8, [1.0] * 8) < 0.05 < compute_paired_p_value([1.0] * 7, [1.0] * 7)


def test_one_side_of_skewed_differences_is_less_certain() -> None:
    draw = Random(3)
    skewed, ones = [1 - draw.expovariate(1) for _ in range(60)], [1.0] * 60
    assert skewness(skewed, ones) == pytest.approx(reference.skew(skewed))
    assert kurtosis(skewed, ones) == pytest.approx(reference.kurtosis(skewed, fisher=False))
    low, high = compute_paired_ratio_interval(skewed, ones)
    mean, error = ratio_of_sums(skewed, ones), compute_ratio_standard_error(skewed, ones)
    half = reference.t.ppf(1 - 0.05 / 4 / 2, 59) * error
    assert high == pytest.approx(mean + half)
    assert low < mean - 1.1 * half  # the texts that are far below may be missing
    assert compute_paired_ratio_interval([-it for it in skewed], ones) == pytest.approx((-high, -low))
    assert compute_paired_ratio_interval([1.0], [2.0]) == (-math.inf, math.inf)


@pytest.mark.parametrize("bend", [-0.5, -1e-12, 0.0, 0.2, 0.9])
def test_skewness_is_removed_and_put_back(bend: float) -> None:
    bounds = [-8.0, -2.0, 0.0, 1.0, 5.0]
    assert [remove_skewness(restore_skewness(bound, bend), bend) for bound in bounds] == pytest.approx(bounds)
    assert remove_skewness(2.0, 0.0) == 2.0


def test_what_is_detectable_shrinks_with_the_error_and_grows_with_the_comparisons() -> None:
    t, z = reference.t.ppf(1 - 0.05 / 2 / 2, 199), reference.norm.ppf(0.8)
    of_error = t**2 * (3 - 1) / (4 * 200)  # the variance of the estimated error, of normal samples
    assert find_detectable_ratio_difference(0.001, 200) == pytest.approx(
        0.001 * (t + z * math.sqrt(1 + of_error)) * (1 + 1 / 200)
    )
    assert (find_detectable_ratio_difference(0.001, 200, 0.05 / 3) or 0) > 0.001 * (t + z)
    assert find_detectable_ratio_difference(math.inf, 1) is None


def test_what_lies_against_the_skewness_is_harder_to_detect_and_an_uncertain_error_costs_more() -> None:
    down, up, either = (
        find_detectable_ratio_difference(0.001, 200, scaled_skewness=-0.2, kurtosis=12, is_upward=it) or 0
        for it in (False, True, None)
    )
    assert 0 < down < up == either
    assert (
        find_detectable_ratio_difference(0.001, 200, scaled_skewness=0.2, kurtosis=12, is_upward=False) == up
    )
    planned = [
        find_detectable_ratio_difference(0.001, 200, scaled_skewness=-0.2, kurtosis=12, observed_samples=it)
        or 0
        for it in (None, 200, 50)
    ]
    assert planned == sorted(planned)
    assert planned[0] == up


def test_a_difference_that_few_samples_have_is_harder_to_detect() -> None:
    moved = find_detectable_ratio_difference(0.02, 200, kurtosis=1) or 0
    assert (
        find_detectable_concentrated_loss(0.02, 200, 0.0, 0.05)
        < moved
        < find_detectable_concentrated_loss(0.02, 200, 1.0, 0.05)
    )
    assert find_detectable_concentrated_loss(0.02, 200, 1.0, 0.05) < find_detectable_concentrated_loss(
        0.02, 200, 1.0, 0.01
    )


@pytest.mark.parametrize("seed", range(8))
def test_p_decides_what_the_interval_shows(seed: int) -> None:
    """A finding has an interval without 0, also where Hall's test alone would have one."""
    draw, ones = Random(seed), [1.0] * 50
    for shift in (-0.5, -0.4, -0.3, 0.3, 0.4, 0.5):
        values = [1 - draw.expovariate(1) + shift for _ in range(50)]
        low, high = compute_paired_ratio_interval(values, ones)
        assert compute_paired_p_value(values, ones) >= 0.05 or not low <= 0 <= high
