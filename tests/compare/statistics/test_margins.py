"""As good within a margin: the level at the margin, the power that is planned, and each verdict."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from runner_compare.render.margins import format_margin_points, format_margin_verdict
from runner_compare.statistics import (
    Finding,
    FisherTest,
    MarginVerdict,
    McNemarTest,
    SequentialTest,
    SignFlipTest,
    Test,
    decide_comparisons_with_holm,
)
from runner_compare.statistics.margins import (
    compute_non_inferiority_power,
    compute_non_inferiority_sample_size,
    decide_sequential_verdict,
)
from runner_compare.statistics.sequential import SequentialPairs, Side
from runner_compare.statistics.stats import (
    compute_paired_difference_interval,
    compute_paired_difference_p_value,
    compute_unpaired_difference_interval,
    compute_unpaired_difference_p_value,
)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("n", [50, 200, 500, 1319])
def test_a_difference_at_the_margin_is_called_as_good_in_5_percent_at_most(n: int, rate: float) -> None:
    for margin in (0.01, 0.02, 0.05):
        # exact; one side of a two-sided 5 %
        assert compute_non_inferiority_power(n, margin, rate, difference=-margin) <= 0.035


def test_the_chance_is_that_of_drawn_tables() -> None:
    generator = np.random.default_rng(0)
    n, margin, rate, difference = 150, 0.05, 0.15, -0.01
    win, loss = (rate + difference) / 2, (rate - difference) / 2
    tables = generator.multinomial(n, [win, loss, 1 - rate], size=4000)
    accepted = [
        (wins - losses) / n > -margin and compute_paired_difference_p_value(wins, losses, n, -margin) < 0.05
        for wins, losses, _ in tables.tolist()
    ]
    assert compute_non_inferiority_power(n, margin, rate, difference=difference) == pytest.approx(
        np.mean(accepted), abs=0.02
    )


@pytest.mark.parametrize(
    ("margin", "rate"), [(0.02, 0.02), (0.02, 0.1), (0.05, 0.05), (0.05, 0.4), (0.01, 0.1)]
)
def test_the_planned_questions_reach_the_planned_power(margin: float, rate: float) -> None:
    n = compute_non_inferiority_sample_size(margin, rate)
    assert n is not None
    assert 0.8 <= compute_non_inferiority_power(n, margin, rate) <= 0.83
    assert compute_non_inferiority_power(int(0.9 * n), margin, rate) < 0.8


def test_a_plan_does_not_jump_over_the_planned_power() -> None:
    """2 % of 142 pairs differ: one question more than 141 takes the power from 79 to 85 %."""
    assert compute_non_inferiority_sample_size(0.05, 0.02) == 141
    assert [round(compute_non_inferiority_power(n, 0.05, 0.02), 2) for n in (141, 142)] == [0.79, 0.85]


@pytest.mark.thorough
def test_more_questions_are_needed_for_less_margin_more_disagreement_and_more_comparisons() -> None:
    of = [(0.05, 0.1, 0.05), (0.02, 0.1, 0.05), (0.02, 0.2, 0.05), (0.02, 0.2, 0.01)]
    needed = [compute_non_inferiority_sample_size(*it) for it in of]
    assert None not in needed
    assert all(one < other for one, other in pairwise(needed))  # type: ignore[operator]
    assert compute_non_inferiority_sample_size(1e-6, 0.5) is None


@pytest.mark.parametrize("table", [(12, 3, 200), (3, 12, 200), (7, 7, 50), (0, 5, 60), (30, 1, 60)])
def test_p_against_the_ends_of_an_interval_is_its_level(table: tuple[int, int, int]) -> None:
    for end in compute_paired_difference_interval(*table):
        assert compute_paired_difference_p_value(*table, end) == pytest.approx(0.05, abs=1e-6)
    one, other, n = table
    counts = (one, n, other, n + 7)
    for end in compute_unpaired_difference_interval(*counts):
        assert compute_unpaired_difference_p_value(*counts, end) == pytest.approx(0.05, abs=1e-6)


def test_p_of_unpaired_accuracies_that_are_far_from_a_margin_is_tiny() -> None:
    assert 0 < compute_unpaired_difference_p_value(180, 200, 150, 200, -0.2) < 1e-11
    assert 0 < compute_unpaired_difference_p_value(200, 200, 0, 200, -0.9) < 1e-11


@pytest.mark.slow
def test_bets_against_a_margin_hold_at_any_look() -> None:
    generator, margin, called = np.random.default_rng(1), 0.1, 0
    for _ in range(300):
        pairs = SequentialPairs(margin=margin)
        for draw in generator.random(200):  # the truth lies at minus the margin
            pairs.add_pair(draw < 0.05, 0.05 <= draw < 0.2)
        is_excluded = pairs.compute_p_value_against(-margin) <= 0.05
        assert (
            is_excluded
            == (pairs.find_first_decided_side(-margin) is not Side.open)
            == (pairs.from_margin is not Side.open)
        )
        called += is_excluded
    assert called <= 0.05 * 300 + 8  # two standard errors of chance
    pairs = SequentialPairs()
    for ours, theirs in [(True, False), (True, True), (True, False), (False, True), (True, False)]:
        pairs.add_pair(ours, theirs)
    assert pairs.compute_p_value_against(0.0) == pytest.approx(pairs.p)
    assert SequentialPairs().compute_p_value_against(-0.1) == 1


def test_the_verdict_about_a_margin_follows_from_two_decisions() -> None:
    better, worse, undecided = Side.better, Side.worse, Side.open
    verdicts = {
        (undecided, undecided): MarginVerdict.undecided,
        (worse, undecided): MarginVerdict.undecided,
        (undecided, better): MarginVerdict.as_good,
        (worse, better): MarginVerdict.worse_but_within,
        (better, better): MarginVerdict.better,
        (worse, worse): MarginVerdict.worse_by_more,
    }
    assert {decisions: decide_sequential_verdict(*decisions) for decisions in verdicts} == verdicts
    words = [
        format_margin_verdict(it, format_margin_points(0.01))
        for it in (MarginVerdict.as_good, MarginVerdict.worse_by_more)
    ]
    assert words == ["no loss above 1 point", "worse by more than 1 point"]


def verdict(test: Test, margin: float = 0.02) -> MarginVerdict | None:
    (decision,) = decide_comparisons_with_holm([test], {test.effect.measure: margin})
    return decision.verdict


def test_each_verdict() -> None:
    assert verdict(McNemarTest(100, 60, 2000)) is MarginVerdict.better
    assert verdict(McNemarTest(20, 20, 2000)) is MarginVerdict.as_good
    assert verdict(McNemarTest(5, 25, 2000)) is MarginVerdict.worse_but_within
    assert verdict(McNemarTest(20, 220, 2000)) is MarginVerdict.worse_by_more
    assert verdict(McNemarTest(5, 5, 100)) is MarginVerdict.undecided
    assert verdict(FisherTest(9000, 10000, 9000, 10000)) is MarginVerdict.as_good
    assert verdict(FisherTest(90, 100, 90, 100)) is MarginVerdict.undecided
    assert verdict(SequentialTest([(True, True)] * 400 + [(False, True)] * 2)) is MarginVerdict.as_good
    assert verdict(SignFlipTest([0.001, -0.001] * 30, [10.0] * 60, "token")) is MarginVerdict.as_good
    assert verdict(SignFlipTest([-1.0, -1.2] * 30, [10.0] * 60, "token")) is MarginVerdict.worse_by_more


@pytest.mark.thorough
def test_a_first_sample_that_counts_has_its_share_of_the_power() -> None:
    generator, hits, plans = np.random.default_rng(0), 0, 0
    for _ in range(1_000):
        wins, losses, _ = generator.multinomial(200, [0.1, 0.1, 0.8]).tolist()
        (effect,) = decide_comparisons_with_holm([McNemarTest(wins, losses, 200)], {"accuracy": 0.05})
        if effect.needed is None:  # already decided
            continue
        plans += 1
        more = generator.multinomial(effect.needed - 200, [0.1, 0.1, 0.8]).tolist()
        whole = McNemarTest(wins + more[0], losses + more[1], effect.needed)
        hits += whole.effect.value > -0.05 and whole.compute_p_value(-0.05) < 0.05
    # of the plan for new questions alone 0.73
    assert hits / plans == pytest.approx(0.8, abs=0.03 + 0.02)


def test_what_is_undecided_says_how_many_questions_would_do() -> None:
    (effect,) = decide_comparisons_with_holm([McNemarTest(5, 5, 100)], {"accuracy": 0.02})
    assert effect.needed == compute_non_inferiority_sample_size(0.02, 10.5 / 101, observed_pairs=(5, 5, 100))
    several = decide_comparisons_with_holm([McNemarTest(5, 5, 100) for _ in range(4)], {"accuracy": 0.02})
    assert {it.needed for it in several} == {
        compute_non_inferiority_sample_size(0.02, 10.5 / 101, 0.05 / 4, observed_pairs=(5, 5, 100))
    }
    (without,) = decide_comparisons_with_holm([McNemarTest(5, 5, 100)])
    assert (without.margin, without.verdict, without.needed) == (None, None, None)


def test_many_rows_are_adjusted_together() -> None:
    (alone,) = decide_comparisons_with_holm([McNemarTest(40, 50, 1500)], {"accuracy": 0.02})
    assert alone.verdict is MarginVerdict.as_good
    rows = decide_comparisons_with_holm([McNemarTest(40, 50, 1500) for _ in range(20)], {"accuracy": 0.02})
    assert {it.verdict for it in rows} == {MarginVerdict.undecided}
    assert {it.finding for it in rows} == {Finding.open}
