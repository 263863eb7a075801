"""Mean differences over questions and clusters: against definitions, and what they promise at the edges."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from scipy.stats import binom

from runner.core.bounded_means import bounded_p
from runner.core.margins import questions_needed
from runner.core.paired_means import MeanDifference
from runner.core.planning import expected_disagreement
from runner.core.stats import detectable_difference, paired_difference_interval

DRAW = Random(0)
DRAWS = 150
VERDICTS = [float(DRAW.choice((-1, 0, 0, 0, 0, 1))) for _ in range(300)]


def test_questions_of_their_own_give_nearly_tangos_interval() -> None:
    it = MeanDifference.of(VERDICTS)
    wins, losses = VERDICTS.count(1), VERDICTS.count(-1)
    assert (it.wins, it.losses) == (wins, losses)
    assert it.difference == pytest.approx((wins - losses) / 300)
    assert it.worth == pytest.approx(300, rel=0.01)
    assert it.interval() == pytest.approx(paired_difference_interval(wins, losses, 300, 0.025), abs=0.005)
    rate = (wins + losses) / 300
    assert it.needs(0.05, 0.05) == pytest.approx(questions_needed(0.05, rate, 0.025) or 0, rel=0.02)
    assert it.detects(0.05) == pytest.approx(detectable_difference(299, rate, 0.025) or 0, rel=0.02)


def test_clusters_whose_questions_agree_are_worth_one_question_each() -> None:
    whole = [verdict for verdict in VERDICTS[:30] for _ in range(10)]
    it = MeanDifference.of(whole, [at // 10 for at in range(300)])
    assert it.p == pytest.approx(bounded_p(VERDICTS[:30], [1.0] * 30, 0.0))
    assert it.worth == pytest.approx(30, rel=0.06)
    low, high = it.interval()
    alone = MeanDifference.of(whole).interval()
    assert low < alone[0] < alone[1] < high
    assert (it.needs(0.05, 0.05) or 0) > 8 * (MeanDifference.of(whole).needs(0.05, 0.05) or 0)


def test_the_interval_and_p_agree() -> None:
    draw = Random(1)
    for families in (6, 10, 40):
        differences = [float(draw.choice((-1, 0, 0, 0, 1, 1))) for _ in range(families * 5)]
        it = MeanDifference.of(differences, [at // 5 for at in range(families * 5)])
        low, high = it.interval()
        assert low <= it.difference <= high
        inside, outside = (low + it.difference) / 2, low - 0.01
        assert it.p_at(inside) >= 0.05 or inside == 0
        assert it.p_at(outside) < 0.05 or outside == 0 or low == 0
        assert low <= 0 <= high or it.p < 0.05


def test_no_difference_anywhere_still_leaves_room() -> None:
    it = MeanDifference.of([0.0] * 200, [at // 10 for at in range(200)])
    low, high = it.interval()
    assert it.p == 1
    assert -0.25 < low < -0.1  # twenty families, of which none differs
    assert high == pytest.approx(-low)
    assert MeanDifference.of([1.0] * 40).interval()[1] == 1.0
    assert MeanDifference.of([0.0] * 50, [at // 10 for at in range(50)]).detects(0.05) is None  # five families


def test_questions_are_planned_as_for_verdicts_also_where_nothing_differed_so_far() -> None:
    for discordant in (0, 1, 12):
        alone = MeanDifference.of([-1.0] * discordant + [0.0] * (60 - discordant)).needs(0.05, 0.05)
        expected = questions_needed(0.05, expected_disagreement(discordant, 60), 0.025)
        assert alone == pytest.approx(expected, rel=0.05)
    families = MeanDifference.of([0.0] * 200, [at // 10 for at in range(200)])
    singles = questions_needed(0.05, expected_disagreement(0, 20), 0.025)  # twenty families, of which none differs
    assert singles is not None
    assert families.needs(0.05, 0.05) == pytest.approx(10 * singles, rel=0.1)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("families", [10, 20, 59, 60, 100])
def test_a_rare_family_that_loses_nearly_everything_deceives_neither_test_nor_interval(families: int) -> None:
    generator, wrong, missed = np.random.default_rng(families), 0, 0
    for _ in range(DRAWS):
        is_lost = generator.random(families) < 0.1  # such a family loses 9 of its 10 questions, any other gains one
        differences = [float(it) for lost in is_lost for it in ([-1] * 9 + [0] if lost else [1] + [0] * 9)]
        it = MeanDifference.of(differences, [at // 10 for at in range(len(differences))])
        low, high = it.interval()
        wrong += it.p < 0.05
        missed += not low <= 0 <= high
    assert max(wrong, missed) <= binom.ppf(0.999, DRAWS, 0.05)


def test_families_that_all_lose_are_worse_also_if_they_are_few() -> None:
    it = MeanDifference.of([-1.0, -1.0, -1.0, 0.0, -1.0] * 12, [at // 5 for at in range(60)])
    assert it.p < 0.01
    assert it.interval()[1] < 0
    least = it.detects(0.05)
    assert least is not None
    assert 0.2 < least < 0.6
