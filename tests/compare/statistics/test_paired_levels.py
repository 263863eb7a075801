"""How often something wrong is said of a table of pairs: summed over all tables, not drawn."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.special import gammaln

from runner_compare.statistics import ALPHA
from runner_compare.statistics.stats import (
    adjust_grouped_p_values,
    compute_exact_mcnemar_p_value,
    compute_paired_difference_interval,
    compute_paired_difference_p_value,
    holm_adjust,
)

MARGINS = (0.005, 0.02, 0.1, 0.2)
COMPARISONS = (1, 2, 5, 10)  # that share the level
DISAGREEMENTS = np.unique(np.concatenate([np.geomspace(1e-4, 1, 20), np.linspace(0, 1, 9)]))


@cache
def tables(n: int) -> tuple[Any, Any]:
    wins, losses = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
    inside = wins + losses <= n
    return wins[inside], losses[inside]


def chances(n: int, difference: float, rate: float) -> Any:
    """Return the probability of each table for a true difference, with this part of the rest
    discordant by noise."""
    wins, losses = tables(n)
    noise = rate * (1 - abs(difference)) / 2
    win, loss = noise + max(0.0, difference), noise + max(0.0, -difference)
    logs = gammaln(n + 1) - gammaln(wins + 1) - gammaln(losses + 1) - gammaln(n - wins - losses + 1)
    for count, chance in ((wins, win), (losses, loss), (n - wins - losses, 1 - win - loss)):
        logs = logs + np.where(count > 0, count * np.log(max(chance, 1e-300)), 0.0)
    return np.exp(logs)


def most_wrong(n: int) -> dict[int, float]:
    """Return, for each number of comparisons, the largest chance of any wrong word as a share of
    the level."""
    wins, losses = tables(n)
    pairs = list(zip(wins.tolist(), losses.tolist(), strict=True))
    p = np.array([compute_exact_mcnemar_p_value(*it) for it in pairs])
    estimate = (wins - losses) / n
    largest = dict.fromkeys(COMPARISONS, 0.0)
    for margin in MARGINS:
        p_margin = np.array([compute_paired_difference_p_value(*it, n, -margin) for it in pairs])
        for comparisons in COMPARISONS:
            level = ALPHA / comparisons
            better, worse = (p < level) & (estimate > 0), (p < level) & (estimate < 0)
            good = better | (p_margin < level) & (estimate > -margin)
            by_more = worse & (p_margin < level) & (estimate < -margin)
            for truth in (0.0, -margin / 2, -margin):
                wrong = by_more | better
                wrong = wrong | worse if truth == 0 else wrong
                wrong = wrong | good if truth == -margin else wrong
                for rate in DISAGREEMENTS:
                    chance = float(chances(n, truth, rate)[wrong].sum())
                    largest[comparisons] = max(largest[comparisons], chance / level)
    return largest


@pytest.mark.parametrize("n", [5, 10, 20, 36])
def test_all_wrong_words_together_keep_to_the_level(n: int) -> None:
    largest = most_wrong(n)
    assert max(largest.values()) <= 1, largest
    assert largest[1] > 0.3, "a test that never rejects keeps to any level"


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("n", range(6, 61))
def test_all_wrong_words_together_keep_to_the_level_at_any_n(n: int) -> None:
    assert max(most_wrong(n).values()) <= 1


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("n", "truth", "rate"), [(50, 0.0, 0.1), (50, -0.06, 0.02), (100, -0.02, 0.0), (60, 0.3, 0.2)]
)
def test_intervals_hold_95_percent_exactly(n: int, truth: float, rate: float) -> None:
    pairs = zip(*(one.tolist() for one in tables(n)), strict=True)
    ends = np.array([compute_paired_difference_interval(wins, losses, n) for wins, losses in pairs])
    holds = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    assert float(chances(n, truth, rate)[holds].sum()) >= 0.95


def test_few_discordant_pairs_are_not_too_many_errors() -> None:
    """2 % of 200 pairs are discordant, all of them losses: Tango's test without correction is wrong
    in 6.7 %."""
    n, margin = 200, 0.02
    wins, losses = tables(n)
    few = wins + losses < 30
    ps = np.array(
        [
            compute_paired_difference_p_value(*it, n, -margin)
            for it in zip(wins[few].tolist(), losses[few].tolist(), strict=True)
        ]
    )
    for rate in (0.0, 0.001, 0.01):
        assert float(chances(n, -margin, rate)[few][ps < ALPHA].sum()) <= ALPHA


def test_a_comparison_counts_once_until_all_about_it_is_shown() -> None:
    assert adjust_grouped_p_values([[0.01], [0.03], [0.02]]) == [[0.03], [0.04], [0.04]]
    # 0.01 · 2 comparisons; 0.02 · 2, since something of each is still open; then the first has no more to ask
    assert adjust_grouped_p_values([[0.01, 0.02], [0.03, 0.04]]) == [[0.02, 0.04], [0.04, 0.04]]
    assert adjust_grouped_p_values([[0.01, 0.9], [0.03]]) == [[0.02, 0.9], [0.06]]
    assert adjust_grouped_p_values([]) == []
    assert holm_adjust([0.01, 0.03]) == [0.02, 0.03]
