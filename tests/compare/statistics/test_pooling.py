"""One difference over several tasks: the exact weighted test, the intervals, and what is pooled for
likelihoods."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from runner_compare.features.pooled.compute import SET_KEYS, choose_question_set_names
from runner_compare.statistics import (
    ALPHA,
    Finding,
    MarginVerdict,
    McNemarTest,
    Method,
    PooledLikelihoodTest,
    create_pooled_test,
    decide_comparisons_with_holm,
    ratios,
    stats,
)
from runner_compare.statistics.margins import compute_non_inferiority_sample_size
from runner_compare.statistics.pooling import (
    PairedTexts,
    PairedVerdicts,
    PoolingWeights,
    compute_mean_difference_interval,
    compute_p_value_by_interval_inversion,
    compute_weighted_sign_flip_p_value,
    plan_pooled_questions_for_margin,
)

UNEQUAL = [PairedVerdicts(3, 9, 50), PairedVerdicts(40, 65, 1319), PairedVerdicts(20, 31, 777)]


def counted(tasks: list[PairedVerdicts]) -> float:
    """Return p from all possible numbers of wins."""
    observed = abs(sum((task.wins - task.losses) / task.n for task in tasks)) - 1e-12
    ways = 0
    for wins in product(*(range(task.wins + task.losses + 1) for task in tasks)):
        total = sum(
            (2 * won - task.wins - task.losses) / task.n for won, task in zip(wins, tasks, strict=True)
        )
        if abs(total) >= observed:
            ways += math.prod(
                math.comb(it.wins + it.losses, won) for won, it in zip(wins, tasks, strict=True)
            )
    return ways / 2 ** sum(task.wins + task.losses for task in tasks)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "tasks",
    [
        [PairedVerdicts(3, 9, 50), PairedVerdicts(2, 5, 30)],
        [PairedVerdicts(0, 6, 20), PairedVerdicts(0, 0, 300)],
        [PairedVerdicts(5, 5, 20), PairedVerdicts(1, 9, 200), PairedVerdicts(2, 3, 100)],
        UNEQUAL,
    ],
)
def test_the_weighted_test_is_exact(tasks: list[PairedVerdicts]) -> None:
    assert compute_weighted_sign_flip_p_value(tasks) == pytest.approx(counted(tasks), rel=1e-8)
    # with rounded weights
    assert compute_weighted_sign_flip_p_value(tasks, max_units=1 << 12) == pytest.approx(
        counted(tasks), rel=0.1
    )


def test_tasks_of_one_size_give_mcnemars_p() -> None:
    tasks = [PairedVerdicts(3, 9, 50), PairedVerdicts(2, 15, 50)]
    assert compute_weighted_sign_flip_p_value(tasks) == pytest.approx(
        stats.compute_exact_mcnemar_p_value(5, 24)
    )
    assert compute_weighted_sign_flip_p_value([PairedVerdicts(4, 4, 50), PairedVerdicts(0, 0, 20)]) == 1.0


def test_questions_that_count_the_same_are_added() -> None:
    pooled = create_pooled_test(UNEQUAL, PoolingWeights.questions).effect
    added = McNemarTest(63, 105, 2146).effect
    assert (pooled.value, pooled.low, pooled.high, pooled.p) == (added.value, added.low, added.high, added.p)
    assert (pooled.method, pooled.counts["tasks"]) == (Method.mcnemar, 3)


def test_the_interval_of_one_task_is_tangos() -> None:
    assert compute_mean_difference_interval([PairedVerdicts(3, 9, 50)]) == pytest.approx(
        stats.compute_tango_interval(3, 9, 50)
    )


def test_p_at_a_difference_belongs_to_the_interval() -> None:
    for end in compute_mean_difference_interval(UNEQUAL):
        assert compute_p_value_by_interval_inversion(UNEQUAL, end) == pytest.approx(0.05, abs=1e-4)
    assert compute_p_value_by_interval_inversion(UNEQUAL, -0.9) < 1e-12


def test_a_task_without_discordant_pairs_still_widens_the_interval() -> None:
    low, high = compute_mean_difference_interval([PairedVerdicts(0, 0, 20), PairedVerdicts(0, 0, 20)])
    assert low < -0.05
    assert high > 0.05


@pytest.mark.parametrize("weights", list(PoolingWeights))
def test_each_finding_is_about_the_weighted_mean(weights: PoolingWeights) -> None:
    tasks = [PairedVerdicts(0, 12, 60), PairedVerdicts(30, 0, 1000)]
    (effect,) = decide_comparisons_with_holm([create_pooled_test(tasks, weights)], {"accuracy": 0.02})
    assert effect.finding is (Finding.better if weights is PoolingWeights.questions else Finding.worse)
    assert effect.verdict is (
        MarginVerdict.better if weights is PoolingWeights.questions else MarginVerdict.worse_by_more
    )


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
def test_a_mean_at_the_margin_itself_is_undecided(margin: float) -> None:
    """(0 - 4) / 50 and (6 - 0) / 100: their mean is minus 0.01 up to rounding, where the search had
    no two signs."""
    test = create_pooled_test([PairedVerdicts(0, 4, 50), PairedVerdicts(6, 0, 100)], PoolingWeights.tasks)
    (effect,) = decide_comparisons_with_holm([test], {"accuracy": margin})
    assert (effect.finding, effect.verdict) == (Finding.open, MarginVerdict.undecided)
    assert test.compute_p_value(-0.01) == 1.0


def test_p_at_any_value_is_there_for_all_means() -> None:
    """Also where both tasks are all alike, or all different."""
    counts = [(0, 0, 20), (0, 20, 20), (20, 0, 20), (10, 10, 20), (1, 0, 7)]
    for one in counts:
        for other in counts:
            tasks = [PairedVerdicts(*one), PairedVerdicts(*other)]
            test = create_pooled_test(tasks, PoolingWeights.tasks)
            for value in (test.effect.value, -0.5, -0.02, 0.02, 0.5):
                assert 0 <= test.compute_p_value(value) <= 1


def texts(seed: int, n: int, shift: float) -> PairedTexts:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(5, 50, size=n).astype(float)
    return PairedTexts((shift * sizes + generator.standard_normal(n)).tolist(), sizes.tolist())


def test_likelihoods_by_questions_are_the_ratio_of_all_sums() -> None:
    tasks = [texts(0, 40, -0.05), texts(1, 200, -0.01)]
    differences = [one for task in tasks for one in task.differences]
    sizes = [one for task in tasks for one in task.sizes]
    pooled = PooledLikelihoodTest(tasks, "token", PoolingWeights.questions).effect
    assert pooled.value == pytest.approx(ratios.ratio_of_sums(differences, sizes))
    assert pooled.p == pytest.approx(ratios.compute_paired_p_value(differences, sizes))
    low, high = ratios.compute_paired_ratio_interval(differences, sizes)
    assert (pooled.low, pooled.high) == pytest.approx((low, high), abs=0.3 * (high - low))


def test_likelihoods_by_tasks_are_the_mean_of_the_ratios() -> None:
    tasks = [texts(0, 40, -0.05), texts(1, 200, -0.01)]
    test = PooledLikelihoodTest(tasks, "token", PoolingWeights.tasks)
    pooled = test.effect
    assert pooled.value == pytest.approx(
        np.mean([ratios.ratio_of_sums(it.differences, it.sizes) for it in tasks])
    )
    assert pooled.low < pooled.value < pooled.high
    assert test.compute_p_value(pooled.value) == 1.0


def test_likelihoods_of_one_small_skewed_task_are_as_uncertain_as_it_is() -> None:
    draw = np.random.default_rng(3)
    skewed = PairedTexts((1 - draw.exponential(size=60)).tolist(), [1.0] * 60)
    quiet = PairedTexts((0.01 * draw.standard_normal(1000)).tolist(), [1.0] * 1000)
    pooled = PooledLikelihoodTest([skewed, quiet], "token", PoolingWeights.tasks).effect
    low, high = ratios.compute_paired_ratio_interval(skewed.differences, skewed.sizes)
    value = ratios.ratio_of_sums(skewed.differences, skewed.sizes)
    assert pooled.value - pooled.low == pytest.approx((value - low) / 2, rel=0.01)
    assert pooled.high - pooled.value == pytest.approx((high - value) / 2, rel=0.01)
    assert pooled.value - pooled.low > 1.1 * (pooled.high - pooled.value)


def test_a_plan_needs_80_texts_in_each_task_that_matters() -> None:
    def texts(n: int, spread: float) -> PairedTexts:
        return PairedTexts([spread * (-1) ** number * (1 + number % 7) for number in range(n)], [10.0] * n)

    def plans(*tasks: PairedTexts) -> bool:
        return PooledLikelihoodTest(tasks, "token", PoolingWeights.questions).can_plan

    assert plans(texts(80, 1.0), texts(80, 1.0))
    assert plans(texts(50, 1.0), texts(800, 1.0)), "50 of 850 texts hardly matter"
    assert not plans(texts(50, 5.0), texts(800, 1.0)), "unless most of the spread is theirs"
    assert not plans(texts(79, 1.0), texts(79, 1.0))


def test_equal_likelihoods_have_no_difference() -> None:
    same = PairedTexts([0.0, 0.0, 0.0], [4.0, 5.0, 6.0])
    pooled = PooledLikelihoodTest([same, same], "token", PoolingWeights.tasks).effect
    assert (pooled.value, pooled.p, pooled.low, pooled.high) == (0.0, 1.0, 0.0, 0.0)


def test_the_questions_that_decide_about_a_mean_grow_with_the_tasks() -> None:
    task = PairedVerdicts(10, 10, 200)
    one = McNemarTest(10, 10, 200).plan_sample_size_for_margin
    assert plan_pooled_questions_for_margin([task], 0.02) == pytest.approx(one(0.02, ALPHA), rel=0.05)
    assert plan_pooled_questions_for_margin([task] * 4, 0.02) == pytest.approx(
        plan_pooled_questions_for_margin([task], 0.02) or 0, rel=0.05
    )
    small, large = PairedVerdicts(5, 5, 50), PairedVerdicts(5, 5, 1000)
    needed = create_pooled_test([small, large], PoolingWeights.tasks).plan_sample_size_for_margin
    count, by_questions = needed(0.05, ALPHA), compute_non_inferiority_sample_size(0.05, 20 / 1050, ALPHA)
    assert count is not None
    assert by_questions is not None
    assert count > 5 * by_questions, "half of the weight is on a twentieth of the questions"
    assert (needed(0.05, ALPHA, 0.9) or 0) > count
    assert plan_pooled_questions_for_margin([small, large], 1e-4) is None


def test_sets_of_different_tasks_are_named_by_their_tasks() -> None:
    """Settings that differ too, such as the split or the limit, are not needed."""
    rest = (None,) * (len(SET_KEYS) - 3)
    code, instructions = (
        ("code", "code", "test", "null", *rest),
        ("instructions", "instructions", "train", "66", *rest),
    )
    other_split = ("code", "code", "train", "null", *rest)
    assert choose_question_set_names([code, instructions]) == ["code", "instructions"]
    assert choose_question_set_names([code, other_split]) == ["test", "train"]
    assert choose_question_set_names([code, other_split, instructions]) == [
        "code test",
        "code train",
        "instructions train",
    ]
