"""Every statistic against scipy, statsmodels, its own definition, or simulated data."""

from __future__ import annotations

import itertools
import math
import random
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from runner_base.spreads import compute_percentiles, compute_relative_spread
from runner_compare.statistics.stats import (
    compute_exact_mcnemar_p_value,
    compute_paired_difference_interval,
    compute_student_quantile,
    compute_tango_interval,
    compute_unpaired_difference_interval,
    compute_wilson_interval,
    find_detectable_paired_difference,
    find_detectable_unpaired_difference,
    holm_adjust,
    student_p_value,
)

counts = st.integers(0, 300)
# small whole numbers: ties are common
repeats = st.lists(st.integers(1, 9), min_size=1, max_size=7)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, int, int]:
    b, c, concordant = draw(counts), draw(counts), draw(counts)
    return b, c, b + c + concordant


@st.composite
def two_groups(draw: st.DrawFn) -> tuple[int, int, int, int]:
    k1, rest1, k2, rest2 = (draw(counts) for _ in range(4))
    return k1, k1 + rest1, k2, k2 + rest2


# ------------------------------------------------------------------------------------------ wilson


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (1, 1), (0, 200), (200, 200), (7, 13), (185, 200), (1219, 1319)]
)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(k: int, n: int, confidence: float) -> None:
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert compute_wilson_interval(k, n, confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


@given(counts, counts)
def test_wilson_is_statsmodels_on_random_tables(k: int, rest: int) -> None:
    if k + rest:
        expected = proportion_confint(k, k + rest, method="wilson")
        assert compute_wilson_interval(k, k + rest) == pytest.approx(expected, abs=1e-12)


def test_wilson_without_data_says_nothing() -> None:
    assert compute_wilson_interval(0, 0) == (0.0, 1.0)


@given(counts, counts)
def test_wilson_holds_the_estimate_and_is_symmetric(k: int, rest: int) -> None:
    n = k + rest
    low, high = compute_wilson_interval(k, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low <= k / n <= high
        assert (1 - high, 1 - low) == pytest.approx(compute_wilson_interval(rest, n), abs=1e-12)


# ----------------------------------------------------------------------------------------- mcnemar


@pytest.mark.parametrize(
    ("b", "c"), [(0, 0), (1, 0), (0, 6), (5, 5), (10, 3), (40, 20), (1500, 1400), (700, 500)]
)
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert compute_exact_mcnemar_p_value(b, c) == pytest.approx(expected, rel=1e-9)


@given(counts, counts, counts)
def test_mcnemar_is_statsmodels_on_random_tables(b: int, c: int, concordant: int) -> None:
    expected = mcnemar([[concordant, b], [c, 7]], exact=True).pvalue if b + c else 1.0
    assert compute_exact_mcnemar_p_value(b, c) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_stays_above_zero_for_thousands_of_pairs() -> None:
    assert 0 < compute_exact_mcnemar_p_value(0, 5000) < 1e-300
    assert compute_exact_mcnemar_p_value(10_000, 10_000) == 1.0


@given(counts, counts)
def test_mcnemar_is_symmetric_and_a_probability(b: int, c: int) -> None:
    assert compute_exact_mcnemar_p_value(b, c) == compute_exact_mcnemar_p_value(c, b)
    assert 0 < compute_exact_mcnemar_p_value(b, c) <= 1


def test_mcnemar_cries_wolf_at_most_once_in_twenty() -> None:
    generator = random.Random(0)
    trials, n = 2000, 100
    false_alarms = 0
    for _ in range(trials):
        discordant = sum(generator.random() < 0.3 for _ in range(n))
        b = sum(generator.random() < 0.5 for _ in range(discordant))
        false_alarms += compute_exact_mcnemar_p_value(b, discordant - b) < 0.05
    noise = 3 * math.sqrt(0.05 * 0.95 / trials)
    assert 0 < false_alarms / trials <= 0.05 + noise


# -------------------------------------------------------------------------------------------- holm


def test_holm_by_hand() -> None:
    assert holm_adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_adjust([]) == []
    assert holm_adjust([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(ps: list[float]) -> None:
    adjusted = holm_adjust(ps)
    for p, q in zip(ps, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(ps))
    ranked = [q for _, q in sorted(zip(ps, adjusted, strict=True))]
    assert ranked == sorted(ranked)


@settings(max_examples=25)  # theirs takes a tenth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@pytest.mark.slow
def test_holm_is_statsmodels_on_random_families(ps: list[float]) -> None:
    assert holm_adjust(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]), abs=1e-12)


@pytest.mark.thorough
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.data())
def test_holm_is_monotonic_and_knows_no_order(ps: list[float], data: st.DataObject) -> None:
    """A larger p makes no adjusted p smaller, and the order of comparisons does not matter."""
    position = data.draw(st.integers(0, len(ps) - 1))
    raised = [*ps]
    raised[position] = data.draw(st.floats(ps[position], 1))
    assert all(after >= before for before, after in zip(holm_adjust(ps), holm_adjust(raised), strict=True))
    order = data.draw(st.permutations(range(len(ps))))
    assert holm_adjust([ps[i] for i in order]) == [holm_adjust(ps)[i] for i in order]


# ------------------------------------------------------------------------- interval of a difference


def log_likelihood(only_second: float, difference: float, b: int, c: int, n: int) -> float:
    """Multinomial log-likelihood of a paired table with a given true difference."""
    only_first, rest = only_second + difference, 1 - 2 * only_second - difference
    return float(sum(k * math.log(p) for k, p in ((b, only_first), (c, only_second), (n - b - c, rest)) if k))


def random_tables() -> list[tuple[int, int, int]]:
    """Return tables whose intervals end inside -1..1, where the likelihood is smooth."""
    generator = random.Random(2)
    return [
        (b, c, b + c + generator.randint(5, 900))
        for b, c in ((generator.randint(1, 90), generator.randint(1, 90)) for _ in range(20))
    ]


@pytest.mark.parametrize(
    ("b", "c", "n"), [(40, 20, 160), (12, 3, 200), (3, 12, 200), (7, 7, 50), (30, 1, 60), *random_tables()]
)
def test_tangos_ends_are_where_the_score_test_rejects(b: int, c: int, n: int) -> None:
    """The textbook definition, with scipy's optimizer in place of the closed form."""
    for end in compute_tango_interval(b, c, n):
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
    assert compute_tango_interval(0, 1, 44) == pytest.approx((-0.118, 0.059), abs=5e-4)


def test_difference_at_the_edges() -> None:
    assert compute_paired_difference_interval(0, 0, 0) == (-1.0, 1.0)
    low, high = compute_paired_difference_interval(0, 0, 100)  # no discordant pair is not certainty
    assert -low == pytest.approx(high)
    assert 0.03 < high < 0.04
    assert compute_paired_difference_interval(5, 0, 5)[1] == 1.0
    assert compute_paired_difference_interval(0, 5, 5)[0] == -1.0


@given(pairs())
def test_difference_interval_holds_the_estimate_and_is_antisymmetric(table: tuple[int, int, int]) -> None:
    b, c, n = table
    low, high = compute_paired_difference_interval(b, c, n)
    assert -1 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= (b - c) / n <= high + 1e-12
    assert compute_paired_difference_interval(c, b, n) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.thorough
def test_difference_interval_covers_19_times_in_20() -> None:
    generator = random.Random(1)
    trials, n, truth = 1500, 60, 0.06
    covered = 0
    for _ in range(trials):
        draws = [generator.random() for _ in range(n)]
        b, c = sum(draw < 0.10 for draw in draws), sum(0.10 <= draw < 0.14 for draw in draws)
        low, high = compute_paired_difference_interval(b, c, n)
        covered += low <= truth <= high
    assert covered / trials == pytest.approx(0.95, abs=0.025)


# ------------------------------------------------------------------------------ detectable
# differences


def exact_power(n: int, rate: float, difference: float, alpha: float) -> float:
    """Probability that the exact test rejects, summed over the number of discordant pairs, which
    are so frequent."""
    # chance that a discordant pair goes against the true difference
    loses = (rate - difference) / (2 * rate)
    power = 0.0
    for discordant in range(n + 1):
        rejected = [
            k for k in range(discordant // 2 + 1) if compute_exact_mcnemar_p_value(discordant - k, k) < alpha
        ]
        chance = stats.binom.pmf(discordant, n, rate)
        power += chance * stats.binom.cdf(max(rejected, default=-1), discordant, loses)
    return float(power)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(("n", "rate"), [(60, 0.0), (60, 0.3), (200, 0.05), (200, 0.4)])
def test_the_detectable_difference_is_seen_four_times_in_five(n: int, rate: float, alpha: float) -> None:
    difference = find_detectable_paired_difference(n, rate, alpha)
    assert difference is not None
    # a loss beside the flips that noise makes
    on_top = exact_power(n, rate + difference, difference, alpha)
    assert 0.8 <= on_top <= 0.97  # few pairs: the exact test comes in steps
    # a loss in place of some of them
    instead = exact_power(n, math.hypot(rate, difference), difference, alpha)
    assert instead >= on_top - 1e-12


def test_detectable_difference_shrinks_with_n_and_grows_with_disagreement_and_strictness() -> None:
    base = find_detectable_paired_difference(500, 0.1)
    more, noisier, stricter = (
        find_detectable_paired_difference(1000, 0.1),
        find_detectable_paired_difference(500, 0.2),
        find_detectable_paired_difference(500, 0.1, alpha=0.01),
    )
    assert None not in (base, more, noisier, stricter)
    assert more < base < noisier  # type: ignore[operator]
    assert base < stricter  # type: ignore[operator]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_pairs_show_nothing(n: int) -> None:
    assert find_detectable_paired_difference(n, 0.1) is None


# ------------------------------------------------------------------------- two groups, other
# questions


@pytest.mark.thorough
@given(two_groups())
def test_the_hybrid_interval_joins_exact_ends_in_newcombes_way(table: tuple[int, int, int, int]) -> None:
    k1, n1, k2, n2 = table
    low, high = compute_unpaired_difference_interval(*table)
    if n1 and n2:
        (low1, high1), (low2, high2) = (
            proportion_confint(k, n, method="beta") for k, n in ((k1, n1), (k2, n2))
        )
        down, up = (math.hypot(k1 / n1 - low1, high2 - k2 / n2), math.hypot(high1 - k1 / n1, k2 / n2 - low2))
        difference = k1 / n1 - k2 / n2
        assert (low, high) == pytest.approx((max(-1, difference - down), min(1, difference + up)), abs=1e-9)
    else:
        assert (low, high) == (-1.0, 1.0)


@given(two_groups())
def test_the_hybrid_interval_holds_the_estimate_and_is_antisymmetric(
    table: tuple[int, int, int, int],
) -> None:
    k1, n1, k2, n2 = table
    low, high = compute_unpaired_difference_interval(*table)
    assert -1 <= low <= high <= 1
    if n1 and n2:
        assert low - 1e-12 <= k1 / n1 - k2 / n2 <= high + 1e-12
    assert compute_unpaired_difference_interval(k2, n2, k1, n1) == pytest.approx((-high, -low), abs=1e-12)
    assert compute_unpaired_difference_interval(n1 - k1, n1, n2 - k2, n2) == pytest.approx(
        (-high, -low), abs=1e-12
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("n", [20, 50, 100])
@pytest.mark.parametrize("difference", [0.0, 0.05, 0.2])
def test_each_end_of_the_hybrid_interval_misses_in_at_most_2_5_percent_where_newcombes_misses_more(
    n: int, difference: float
) -> None:
    """Summed over all tables, so without noise, for shares that differ by up to 20 points."""
    hybrid = np.array(
        [
            [compute_unpaired_difference_interval(one, n, other, n) for other in range(n + 1)]
            for one in range(n + 1)
        ]
    )
    newcombe = np.array([[newcombes(one, other, n) for other in range(n + 1)] for one in range(n + 1)])
    most = [0.0, 0.0]
    for rate in np.linspace(0.5, 0.99, 50):
        first, second = (stats.binom.pmf(range(n + 1), n, share) for share in (rate, rate - difference))
        chances = np.outer(first, second)
        for at, ends in enumerate((hybrid, newcombe)):
            beyond = ends[..., 0] > difference + 1e-12, ends[..., 1] < difference - 1e-12
            most[at] = max(most[at], *(float(chances[where].sum()) for where in beyond))
    assert most[0] <= 0.025
    assert most[1] > 0.025, "Wilson's ends do not suffice"


def test_newcombes_interval_here_is_statsmodels() -> None:
    expected = confint_proportions_2indep(17, 20, 11, 20, method="newcomb", compare="diff")
    assert newcombes(17, 11, 20) == pytest.approx(expected, abs=1e-9)


def newcombes(one: int, other: int, n: int) -> tuple[float, float]:
    """Return Newcombe's interval with Wilson's ends."""
    (low, high), (other_low, other_high) = compute_wilson_interval(one, n), compute_wilson_interval(other, n)
    down, up = (
        math.hypot(one / n - low, other_high - other / n),
        math.hypot(high - one / n, other / n - other_low),
    )
    return (one - other) / n - down, (one - other) / n + up


@cache
def fishers_p(k1: int, n1: int, k2: int, n2: int) -> float:
    return float(stats.fisher_exact([[k1, n1 - k1], [k2, n2 - k2]]).pvalue)


def fishers_power(n1: int, rate1: float, n2: int, rate2: float) -> float:
    """Probability that Fisher's test rejects at 5 %, summed over all tables."""
    first, second = (stats.binom.pmf(range(n1 + 1), n1, rate1), stats.binom.pmf(range(n2 + 1), n2, rate2))
    tables = itertools.product(range(n1 + 1), range(n2 + 1))
    return float(sum(first[k1] * second[k2] for k1, k2 in tables if fishers_p(k1, n1, k2, n2) < 0.05))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("n1", "n2", "rate", "most"),
    [
        (20, 20, 0.5, 0.9),
        pytest.param(50, 50, 0.5, 0.9, marks=pytest.mark.slow),
        (60, 40, 0.8, 0.9),
        (30, 90, 0.3, 0.9),
        pytest.param(80, 80, 0.95, 1.0, marks=pytest.mark.slow),
        (30, 90, 0.0, 1.0),
    ],
)
def test_the_unpaired_detectable_difference_is_seen_four_times_in_five(
    n1: int, n2: int, rate: float, most: float
) -> None:
    """Whichever side is the better one, and whether the other is better or worse; near 0 and 1,
    where Fisher's test is far from its 5 %, it promises less than it keeps."""
    difference = find_detectable_unpaired_difference(n1, n2, rate)
    assert difference is not None
    others = [other for other in (rate - difference, rate + difference) if 0 <= other <= 1]
    powers = [
        fishers_power(*sides) for other in others for sides in ((n1, rate, n2, other), (n1, other, n2, rate))
    ]
    assert 0.78 <= min(powers) <= most


def test_the_unpaired_detectable_difference_shrinks_with_n_and_too_few_show_nothing() -> None:
    few, many = (
        find_detectable_unpaired_difference(100, 100, 0.7),
        find_detectable_unpaired_difference(1000, 1000, 0.7),
    )
    assert few is not None
    assert many is not None
    assert find_detectable_paired_difference(1000, 0.2) < many < few  # type: ignore[operator]
    assert find_detectable_unpaired_difference(2, 2, 0.5) is None
    assert find_detectable_unpaired_difference(0, 9, 0.5) is None


# -------------------------------------------------------------------------------------- Student's t


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.05 / 45, 1e-7])
@pytest.mark.parametrize("freedom", [1, 2, 3, 10, 1001])
def test_student_is_two_sided_and_no_p_is_zero(alpha: float, freedom: int) -> None:
    assert compute_student_quantile(alpha, freedom) == pytest.approx(
        stats.t.isf(alpha / 2, freedom), rel=1e-9
    )
    assert student_p_value(-compute_student_quantile(alpha, freedom), freedom) == pytest.approx(
        alpha, rel=1e-9
    )
    assert student_p_value(0.0, freedom) == 1.0
    assert student_p_value(1e300, freedom) > 0


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in random.Random(0).sample(range(1000), 250)]
    by_rank = compute_percentiles(values)
    expected = np.percentile(values, [50, 95, 99], method="inverted_cdf")
    assert list(by_rank.values()) == pytest.approx(list(expected))
    assert compute_percentiles([3.0]) == {"p50": 3.0, "p95": 3.0, "p99": 3.0}
    assert compute_percentiles([]) == {}


def test_the_relative_spread_is_that_of_the_quartiles() -> None:
    values = [10.0, 12.0, 9.0, 30.0, 11.0]
    low, middle, high = np.percentile(values, [25, 50, 75])
    assert compute_relative_spread(values) == pytest.approx((high - low) / middle)
    assert compute_relative_spread([1.0, 2.0]) == math.inf
