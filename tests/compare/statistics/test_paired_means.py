"""Mean differences over questions and clusters: against definitions, and what they promise at the
edges."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from scipy.stats import binom

from runner_compare.statistics.paired_means import CAUTION, LOST_ANSWERS, MeanDifference
from runner_compare.statistics.stats import compute_paired_difference_interval

DRAW = Random(0)
DRAWS = 150
# the power of a loss of 10 points, by the number of families
LEAST_FOUND = {8: 0.1, 12: 0.3, 18: 0.6, 30: 0.85, 59: 0.98}
VERDICTS = [float(DRAW.choice((-1, 0, 0, 0, 0, 1))) for _ in range(300)]


def test_questions_of_their_own_give_nearly_tangos_interval() -> None:
    it = MeanDifference.from_differences(VERDICTS)
    wins, losses = VERDICTS.count(1), VERDICTS.count(-1)
    assert it.difference == pytest.approx((wins - losses) / 300)
    assert it.compute_interval() == pytest.approx(
        compute_paired_difference_interval(wins, losses, 300), abs=0.005
    )


def test_clusters_whose_questions_agree_are_worth_one_question_each() -> None:
    whole = [verdict for verdict in VERDICTS[:30] for _ in range(10)]
    it, single = (
        MeanDifference.from_differences(whole, [at // 10 for at in range(300)]),
        MeanDifference.from_differences(VERDICTS[:30]),
    )
    assert it.p == pytest.approx(single.p)
    low, high = it.compute_interval()
    assert (low, high) == pytest.approx(single.compute_interval())
    alone = MeanDifference.from_differences(whole).compute_interval()
    assert low < alone[0] < alone[1] < high


def test_the_interval_and_p_agree() -> None:
    draw = Random(1)
    for families in (6, 10, 40):
        differences = [float(draw.choice((-1, 0, 0, 0, 1, 1))) for _ in range(families * 5)]
        it = MeanDifference.from_differences(differences, [at // 5 for at in range(families * 5)])
        low, high = it.compute_interval()
        assert low <= it.difference <= high
        inside, outside = (low + it.difference) / 2, low - 0.01
        assert it.compute_p_value_against(inside) >= 0.05 or inside == 0
        assert it.compute_p_value_against(outside) < 0.05 or outside == 0 or low == 0
        assert low <= 0 <= high or it.p < 0.05


def test_no_difference_anywhere_still_leaves_room() -> None:
    it = MeanDifference.from_differences([0.0] * 200, [at // 10 for at in range(200)])
    low, high = it.compute_interval()
    assert it.p == 1
    # Twenty clusters of ten, of which none differs. An unseen one may lose two answers: the
    # interval has each mean of which so many clusters would all miss that kind in 0.05 / CAUTION.
    share = 1 - (0.05 / CAUTION) ** (1 / 20)
    assert low == pytest.approx(-share * LOST_ANSWERS / 10, rel=0.01)
    assert high == pytest.approx(-low)
    low, _ = MeanDifference.from_differences([0.0] * 20, range(20)).compute_interval()
    assert low == pytest.approx(0.05 ** (1 / 20) - 1, abs=1e-3), "families of one question each"
    assert MeanDifference.from_differences([1.0] * 40).compute_interval()[1] == 1.0


@pytest.mark.thorough
def test_there_is_no_step_where_families_become_many() -> None:
    """Intervals were 20 points wide with 59 families, and 24 with 60."""
    generator, widths = np.random.default_rng(0), {}
    drawn = generator.choice([-1.0, 0.0, 1.0], size=(70, 10), p=[0.3, 0.6, 0.1])
    for families in range(50, 71):
        low, high = MeanDifference.from_differences(
            drawn[:families].ravel().tolist(), [at // 10 for at in range(10 * families)]
        ).compute_interval()
        widths[families] = high - low
    assert all(abs(widths[families + 1] / widths[families] - 1) < 0.04 for families in range(50, 70))
    assert widths[70] < widths[50]


@pytest.mark.thorough
def test_twenty_families_that_lose_twenty_points_are_found() -> None:
    generator, found = np.random.default_rng(1), 0
    for _ in range(DRAWS):
        own = generator.normal(0, 0.15, (20, 1))  # how well a run does with a family
        solved = generator.random((2, 20, 10)) < np.stack([0.6 + own, np.full((20, 1), 0.8)])
        differences = solved[0].astype(float) - solved[1]
        found += (
            MeanDifference.from_differences(differences.ravel().tolist(), [at // 10 for at in range(200)]).p
            < 0.05
        )
    assert found >= binom.ppf(0.001, DRAWS, 0.7)


def skewed(generator: np.random.Generator, families: int, mean: float) -> tuple[list[float], list[int]]:
    """Draw differences of families of 20 questions: most gain a little, and some lose much."""
    effects = mean + 0.1 * (1 - generator.exponential(1, families))
    each = np.clip(effects, -0.9, 0.9).repeat(20)
    chance = generator.random(len(each))
    lost, won = 0.03 + np.maximum(0, -each), 0.03 + np.maximum(0, each)
    drawn = np.where(chance < lost, -1.0, np.where(chance > 1 - won, 1.0, 0.0))
    return drawn.tolist(), [at // 20 for at in range(len(drawn))]


@pytest.mark.thorough
@pytest.mark.parametrize("families", [8, 12, 18, 30, 59])
def test_few_families_with_skewed_differences_keep_the_level_and_find_a_loss(families: int) -> None:
    """A loss of 10 points in 18 families was found in 2 %, and is in about 30 % of such pairs."""
    generator = np.random.default_rng(families)
    wrong, good, found = 0, 0, 0
    for _ in range(DRAWS):
        wrong += MeanDifference.from_differences(*skewed(generator, families, 0.0)).p < 0.05
        at_margin = MeanDifference.from_differences(*skewed(generator, families, -0.05))
        good += at_margin.difference > -0.05 and at_margin.compute_p_value_against(-0.05) < 0.05
        lost = MeanDifference.from_differences(*skewed(generator, families, -0.1))
        found += lost.p < 0.05 and lost.difference < 0
    assert wrong <= binom.ppf(0.999, DRAWS, 0.05)
    assert good <= binom.ppf(0.999, DRAWS, 0.025)
    assert found >= binom.ppf(0.001, DRAWS, LEAST_FOUND[families])


@pytest.mark.thorough
@pytest.mark.parametrize("families", [40, 59, 60, 100])
def test_a_rare_family_that_loses_nearly_everything_deceives_neither_test_nor_interval(families: int) -> None:
    generator, wrong, missed = np.random.default_rng(families), 0, 0
    for _ in range(DRAWS):
        # such a family loses 9 of its 10 questions, any other gains one
        is_lost = generator.random(families) < 0.1
        differences = [float(it) for lost in is_lost for it in ([-1] * 9 + [0] if lost else [1] + [0] * 9)]
        it = MeanDifference.from_differences(differences, [at // 10 for at in range(len(differences))])
        low, high = it.compute_interval()
        wrong += it.p < 0.05
        missed += not low <= 0 <= high
    assert max(wrong, missed) <= binom.ppf(0.999, DRAWS, 0.05)


def test_families_that_all_lose_are_worse_also_if_they_are_few() -> None:
    it = MeanDifference.from_differences([-1.0, -1.0, -1.0, 0.0, -1.0] * 12, [at // 5 for at in range(60)])
    assert it.p < 0.01
    assert it.compute_interval()[1] < 0
