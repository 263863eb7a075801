"""Bounded numbers: the chance of an unseen kind is exact, scattered numbers are tested as normal
ones, levels hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, multinomial, norm

from runner_compare.statistics.empirical_likelihood import compute_empirical_likelihood_p_value
from runner_compare.statistics.paired_means import compute_mean_p_values


def test_equal_numbers_may_hide_a_rare_kind_that_loses_all() -> None:
    rare = 0.1 / 1.1  # a kind of -1 that makes the mean of the others' 0.1 zero
    assert compute_empirical_likelihood_p_value([0.1] * 10, [1.0] * 10, 0.0) == pytest.approx(
        (1 - rare) ** 10
    )
    assert compute_empirical_likelihood_p_value([0.4] * 10, [4.0] * 10, 0.0) == pytest.approx(
        (1 - rare) ** 10
    ), "families of four questions"
    assert compute_empirical_likelihood_p_value([0.0] * 60, [1.0] * 60, -0.05) == pytest.approx(0.95**60)
    assert compute_empirical_likelihood_p_value([0.0] * 60, [1.0] * 60, 0.05) == pytest.approx(0.95**60)
    assert (
        compute_empirical_likelihood_p_value([0.0] * 60, [1.0] * 60, 0.0)
        == compute_empirical_likelihood_p_value([1.0] * 9, [1.0] * 9, 1.0)
        == 1.0
    )
    assert compute_empirical_likelihood_p_value([0.5] * 9, [1.0] * 9, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(("n", "rare"), [(20, 1), (20, 3), (59, 1), (100, 2), (200, 8)])
def test_a_kind_that_is_rare_among_them_is_tested_no_less_strictly_than_by_its_count(
    n: int, rare: int
) -> None:
    for gain in (0.05, 0.1, 0.2, 0.4):
        share = gain / (1 + gain)  # of the rare kind, if the mean is 0
        exact = float(binom.cdf(rare, n, share))
        assert (
            compute_empirical_likelihood_p_value([-1.0] * rare + [gain] * (n - rare), [1.0] * n, 0.0) >= exact
            or exact > 0.05
        )


def test_scattered_numbers_are_tested_as_normal_ones() -> None:
    values = 0.2 * norm.ppf((np.arange(400) + 0.5) / 400)
    for shift in (0.01, 0.02, 0.03):
        moved = values + shift
        z = shift / (values.std(ddof=1) / 20)
        assert compute_empirical_likelihood_p_value(moved.tolist(), [1.0] * 400, 0.0) == pytest.approx(
            2 * norm.cdf(-z), rel=0.1
        )


@pytest.mark.parametrize("n", [6, 10, 20])
@pytest.mark.parametrize("mean", [-0.02, -0.05, -0.1, -0.2])
def test_levels_of_all_tables_of_verdicts_hold(n: int, mean: float) -> None:
    """An exact sum: wins, losses and ties of n families that are won or lost as a whole."""
    tables = [(wins, losses) for wins in range(n + 1) for losses in range(n + 1 - wins)]
    sums = np.array([[1.0] * wins + [-1.0] * losses + [0.0] * (n - wins - losses) for wins, losses in tables])
    is_wrong = compute_mean_p_values(sums, np.ones_like(sums), mean) < 0.05
    for differ in np.linspace(-mean + 0.01, 0.95, 12):
        chances = [(differ + mean) / 2, (differ - mean) / 2, 1 - differ]
        counts = [[wins, losses, n - wins - losses] for wins, losses in tables]
        assert multinomial.pmf(counts, n, chances)[is_wrong].sum() <= 0.05
