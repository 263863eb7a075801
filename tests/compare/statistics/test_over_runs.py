"""Ratios over runs, against scipy, the definition of their test, and simulated power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner_base.spreads import compute_median_interval, compute_min_values_for_interval
from runner_compare.statistics import MIN_RUNS
from runner_compare.statistics.run_ratios import (
    RunRatio,
    compute_min_runs_per_job,
    compute_power_from_run_count,
    min_p_value,
    plan_runs_per_job,
)

values = st.lists(st.integers(900, 1100).map(float), min_size=3, max_size=8)


@given(values, values)
def test_the_ratio_and_its_error_are_welchs(ours: list[float], theirs: list[float]) -> None:
    over = RunRatio.from_run_values(ours, theirs)
    assert over.ratio == pytest.approx(stats.gmean(ours) / stats.gmean(theirs))
    if min(map(len, map(set, (ours, theirs)))) > 1:  # scipy warns of equal values
        welch = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False)
        assert math.log(over.ratio) / over.error == pytest.approx(welch.statistic, abs=1e-6)
        assert over.compute_p_value_against(1.0) >= min(1.0, welch.pvalue) - 1e-9, (
            "the smaller side's degrees of freedom are fewer"
        )


@pytest.mark.thorough
@given(values, values, st.sampled_from([0.05, 0.01]))
def test_an_interval_holds_the_ratios_that_the_test_does_not_reject(
    ours: list[float], theirs: list[float], alpha: float
) -> None:
    over = RunRatio.from_run_values(ours, theirs)
    for end, outwards in zip(over.compute_interval(alpha), (0.999, 1.001), strict=True):
        if over.error and min_p_value(over.runs) < alpha:
            assert (
                over.compute_p_value_against(end / outwards)
                > alpha
                > over.compute_p_value_against(end * outwards)
            )
        elif not over.error:
            assert end == pytest.approx(over.ratio)


@pytest.mark.thorough
@given(values, values)
def test_the_sides_can_be_swapped(ours: list[float], theirs: list[float]) -> None:
    over, turned = RunRatio.from_run_values(ours, theirs), RunRatio.from_run_values(theirs, ours)
    assert turned.ratio == pytest.approx(1 / over.ratio)
    assert turned.compute_p_value_against(1 / 1.1) == pytest.approx(
        over.compute_p_value_against(1.1), rel=1e-6
    )


def test_runs_of_two_modes_bound_p() -> None:
    """All of one side in one mode, all of the other in the other: two equally likely modes do that
    by themselves."""
    over = RunRatio.from_run_values([100.0] * 3, [110.0] * 3)
    assert over.compute_p_value_against(1.0) == min_p_value(6) == 2 / 2**6
    assert RunRatio.from_run_values([100.0] * 3, [100.0] * 5).compute_p_value_against(1.0) == 1.0


def test_the_fewest_runs_are_those_that_can_show_anything() -> None:
    assert compute_min_runs_per_job(0.05) == MIN_RUNS == 3
    for alpha in (0.025, 0.05 / 12, 0.05 / 100):
        runs = compute_min_runs_per_job(alpha)
        assert min_p_value(2 * runs) < alpha <= min_p_value(2 * runs - 2)


@pytest.mark.parametrize(("distance", "alpha"), [(3.0, 0.05), (3.0, 0.05 / 12), (1.0, 0.05)])
def test_the_runs_needed_have_their_power(distance: float, alpha: float) -> None:
    runs = plan_runs_per_job(distance, alpha)
    assert runs is not None
    assert (
        compute_power_from_run_count(runs, distance, alpha)
        >= 0.8
        > compute_power_from_run_count(runs - 1, distance, alpha)
    )
    generator = np.random.default_rng(1)
    ours = np.exp(0.03 * (distance + generator.standard_normal((600, runs))))
    theirs = np.exp(0.03 * generator.standard_normal((600, runs)))
    found = sum(
        RunRatio.from_run_values(*pair).compute_p_value_against(1.0) < alpha
        for pair in zip(ours.tolist(), theirs.tolist(), strict=True)
    )
    assert found / 600 == pytest.approx(compute_power_from_run_count(runs, distance, alpha), abs=0.06)


def test_no_number_of_runs_shows_a_distance_of_nothing() -> None:
    assert plan_runs_per_job(1e-4) is None
    assert plan_runs_per_job(1e6) == MIN_RUNS


def test_the_median_of_runs_lies_between_two_of_them_whatever_the_noise_is() -> None:
    assert compute_median_interval([3.0, 1.0, 2.0, 5.0, 4.0]) is None
    assert compute_min_values_for_interval() == 6
    assert compute_median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 9.0]) == (1.0, 9.0)
    assert compute_median_interval([float(at) for at in range(10)]) == (1.0, 8.0)
    generator = np.random.default_rng(4)
    for runs in (6, 9, 12, 20):
        drawn = np.where(generator.random((2000, runs)) < 0.1, -5.0, 0.0) + generator.normal(
            0, 1, (2000, runs)
        )
        whole = np.where(generator.random(400_000) < 0.1, -5.0, 0.0) + generator.normal(0, 1, 400_000)
        truth = float(np.median(whole))
        ends = [compute_median_interval(values) for values in drawn.tolist()]
        missed = sum(not it[0] <= truth <= it[1] for it in ends if it is not None)
        assert missed <= 2000 * 0.05 + 3 * (2000 * 0.05 * 0.95) ** 0.5
