"""Every statistic against scipy, against its own definition, or against simulated data."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from runner.stats import (
    detectable_difference,
    holm,
    mcnemar_exact,
    paired_difference_interval,
    wilson_interval,
)

counts = st.integers(0, 300)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, int, int]:
    b, c, concordant = draw(counts), draw(counts), draw(counts)
    return b, c, b + c + concordant


# ------------------------------------------------------------------------------------------ wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 200), (200, 200), (7, 13), (185, 200), (1219, 1319)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(k: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_data_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(counts, counts)
def test_wilson_holds_the_estimate_and_is_symmetric(k: int, rest: int) -> None:
    n = k + rest
    low, high = wilson_interval(k, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= k / n <= high
        assert (1 - high, 1 - low) == pytest.approx(wilson_interval(rest, n), abs=1e-12)


# ----------------------------------------------------------------------------------------- mcnemar


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 6), (5, 5), (10, 3), (40, 20), (1500, 1400), (700, 500)])
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_stays_above_zero_for_thousands_of_pairs() -> None:
    assert 0 < mcnemar_exact(0, 5000) < 1e-300
    assert mcnemar_exact(10_000, 10_000) == 1.0


@given(counts, counts)
def test_mcnemar_is_symmetric_and_a_probability(b: int, c: int) -> None:
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)
    assert 0 < mcnemar_exact(b, c) <= 1


def test_mcnemar_cries_wolf_at_most_once_in_twenty() -> None:
    generator = random.Random(0)
    trials, n = 2000, 100
    false_alarms = 0
    for _ in range(trials):
        discordant = sum(generator.random() < 0.3 for _ in range(n))
        b = sum(generator.random() < 0.5 for _ in range(discordant))
        false_alarms += mcnemar_exact(b, discordant - b) < 0.05
    noise = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert 0 < false_alarms / trials <= 0.05 + noise


# -------------------------------------------------------------------------------------------- holm


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(ps: list[float]) -> None:
    adjusted = holm(ps)
    for p, q in zip(ps, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(ps))
    ranked = [q for _, q in sorted(zip(ps, adjusted, strict=True))]
    assert ranked == sorted(ranked)


# ------------------------------------------------------------------------- interval of a difference


def log_likelihood(only_second: float, difference: float, b: int, c: int, n: int) -> float:
    """Multinomial log-likelihood of a paired table with a given true difference."""
    only_first, rest = only_second + difference, 1 - 2 * only_second - difference
    return float(sum(k * math.log(p) for k, p in ((b, only_first), (c, only_second), (n - b - c, rest)) if k))


@pytest.mark.parametrize(("b", "c", "n"), [(40, 20, 160), (12, 3, 200), (3, 12, 200), (7, 7, 50), (30, 1, 60)])
def test_tangos_ends_are_where_the_score_test_rejects(b: int, c: int, n: int) -> None:
    """The textbook definition, with scipy's optimizer in place of the closed form."""
    for end in paired_difference_interval(b, c, n):
        bounds = (max(0.0, -end) + 1e-9, (1 - end) / 2 - 1e-9)
        best = optimize.minimize_scalar(
            lambda q, end=end: -log_likelihood(q, end, b, c, n),
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-10},
        )
        variance = (2 * best.x + end - end * end) / n
        z = ((b - c) / n - end) / math.sqrt(variance)
        assert abs(z) == pytest.approx(stats.norm.ppf(0.975), abs=1e-3)


def test_tangos_published_example() -> None:
    # Soft contact lenses, 44 pairs, one discordant: Tango 1998.
    assert paired_difference_interval(0, 1, 44) == pytest.approx((-0.118, 0.059), abs=5e-4)


def test_difference_at_the_edges() -> None:
    assert paired_difference_interval(0, 0, 0) == (-1.0, 1.0)
    low, high = paired_difference_interval(0, 0, 100)  # no discordant pair is not certainty
    assert -low == pytest.approx(high)
    assert 0.03 < high < 0.04
    assert paired_difference_interval(5, 0, 5)[1] == 1.0
    assert paired_difference_interval(0, 5, 5)[0] == -1.0


@given(pairs())
def test_difference_interval_holds_the_estimate_and_is_antisymmetric(table: tuple[int, int, int]) -> None:
    b, c, n = table
    low, high = paired_difference_interval(b, c, n)
    assert -1 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= (b - c) / n <= high + 1e-12
    assert paired_difference_interval(c, b, n) == pytest.approx((-high, -low), abs=1e-9)


def test_difference_interval_covers_19_times_in_20() -> None:
    generator = random.Random(1)
    trials, n, truth = 1500, 60, 0.06
    covered = 0
    for _ in range(trials):
        draws = [generator.random() for _ in range(n)]
        b, c = sum(draw < 0.10 for draw in draws), sum(0.10 <= draw < 0.14 for draw in draws)
        low, high = paired_difference_interval(b, c, n)
        covered += low <= truth <= high
    assert covered / trials == pytest.approx(0.95, abs=0.025)


# --------------------------------------------------------------------------- what could have been seen


def exact_power(n: int, rate: float, difference: float, alpha: float) -> float:
    """Probability that the exact test rejects, summed over the number of discordant pairs."""
    rate = max(rate, difference)
    loses = (rate - difference) / (2 * rate)  # chance that a discordant pair goes against the true difference
    power = 0.0
    for discordant in range(n + 1):
        rejected = [k for k in range(discordant // 2 + 1) if mcnemar_exact(discordant - k, k) < alpha]
        chance = stats.binom.pmf(discordant, n, rate)
        power += chance * stats.binom.cdf(max(rejected, default=-1), discordant, loses)
    return float(power)


@pytest.mark.parametrize(("n", "rate"), [(60, 0.0), (60, 0.3), (200, 0.1), (200, 0.4)])
def test_the_detectable_difference_is_seen_four_times_in_five(n: int, rate: float) -> None:
    difference = detectable_difference(n, rate)
    assert difference is not None
    assert 0.8 <= exact_power(n, rate, difference, 0.05) <= 0.93  # few pairs: the exact test comes in steps


def test_detectable_difference_shrinks_with_n_and_grows_with_disagreement_and_strictness() -> None:
    base = detectable_difference(500, 0.1)
    more, noisier, stricter = (
        detectable_difference(1000, 0.1),
        detectable_difference(500, 0.2),
        detectable_difference(500, 0.1, alpha=0.01),
    )
    assert None not in (base, more, noisier, stricter)
    assert more < base < noisier  # type: ignore[operator]
    assert base < stricter  # type: ignore[operator]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_pairs_show_nothing(n: int) -> None:
    assert detectable_difference(n, 0.1) is None
