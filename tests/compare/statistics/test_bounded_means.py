"""Few bounded numbers: the chance is exact, and of verdicts the test is Clopper and Pearson's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from runner_compare.statistics.bounded_means import compute_mean_p_value, compute_nonpositive_sum_probability


def test_the_chance_is_exact() -> None:
    assert compute_nonpositive_sum_probability(np.array([0.1, -1.0]), np.array([10, 1])) == pytest.approx(
        (10 / 11) ** 10
    )
    assert compute_nonpositive_sum_probability(np.array([1.0, -1.0]), np.array([50, 1])) == pytest.approx(
        2.0**-50
    )
    assert compute_nonpositive_sum_probability(np.array([1.0, -1.0]), np.array([1, 50])) == pytest.approx(
        1 - 2.0**-50
    )
    generator = np.random.default_rng(0)
    values = generator.normal(0.3, 1, 12)
    drawn = (generator.exponential(size=(200_000, 12)) @ values <= 0).mean()
    assert compute_nonpositive_sum_probability(values, np.ones(12)) == pytest.approx(drawn, abs=0.002)
    assert compute_nonpositive_sum_probability(np.array([1.0, 2.0]), np.ones(2)) == 0
    assert (
        compute_nonpositive_sum_probability(np.array([-1.0, 0.0]), np.ones(2))
        == compute_nonpositive_sum_probability(np.zeros(2), np.ones(2))
        == 1
    )


@pytest.mark.parametrize("wins", [0, 3, 20])
def test_of_verdicts_it_is_clopper_and_pearsons(wins: int) -> None:
    verdicts = [1.0] * wins + [-1.0] * (20 - wins)
    for share in (0.02, 0.3, 0.9):  # of wins: the mean is twice that less one
        exact = beta.cdf(share, wins, 21 - wins) if wins else 1.0
        assert compute_mean_p_value(verdicts, [1.0] * 20, 2 * share - 1, -1) == pytest.approx(exact)
