"""Effects: one judge for all of them, families by measure, and the difference that each method can detect."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from scipy import stats as reference

from runner.core.effects import (
    Effect,
    Finding,
    Method,
    judge,
    paired_accuracies,
    paired_likelihoods,
    ratio_of_medians,
    repeats_needed,
    sequential_accuracies,
    unpaired_accuracies,
)
from runner.core.ratios import detectable_shift, ratio_error, skewness
from runner.core.stats import detectable_difference, unpaired_detectable_difference


def ratio(measure: str, p: float, value: float = 2.0) -> Effect:
    return Effect(Method.rank_sum, measure, value, 1.5, 2.5, p, 5, 5, is_ratio=True)


def effects_of_small_samples() -> Iterator[Effect]:
    yield paired_accuracies(0, 5, 200)  # p 0.0625, and Tango's interval alone ends at -0.6 points
    yield from (paired_accuracies(wins, losses, 60) for wins in range(30) for losses in range(30))
    yield from (unpaired_accuracies(a, 12, b, 15) for a in range(13) for b in range(16))
    generator = random.Random(0)
    for n in (2, 3, 5, 20):
        for _ in range(50):
            yield paired_likelihoods([generator.gauss(0.4, 1) for _ in range(n)], [1.0] * n, "token")
            yield ratio_of_medians("load_s", *([generator.uniform(1, 1.3) for _ in range(n)] for _ in "ab"))


@pytest.mark.slow
def test_the_interval_leaves_out_no_difference_where_the_test_does_and_only_there() -> None:
    kinds = set()
    for it in effects_of_small_samples():
        excluded = not it.low <= it.neutral <= it.high
        assert not excluded or it.p < 0.05, it
        if it.method in {Method.mcnemar, Method.fisher}:
            assert excluded == (it.p < 0.05), it
        kinds.add((it.method, excluded))
    methods = {Method.mcnemar, Method.fisher, Method.sign_flips, Method.rank_sum}
    assert kinds == {(method, excluded) for method in methods for excluded in (True, False)}


def test_a_family_is_all_comparisons_of_one_figure() -> None:
    ratios = [ratio(f"speed/cell_{number}", 0.008) for number in range(4)]
    ratios += [ratio("load_s", 0.04)]
    judge(ratios)
    assert [it.p_holm for it in ratios] == pytest.approx([0.032] * 4 + [0.04])
    assert [it.comparisons for it in ratios] == [4] * 4 + [1]
    assert {str(it.finding) for it in ratios} == {"larger"}


def test_accuracies_are_one_family_by_whatever_method() -> None:
    pairs = [(index >= 30, True) for index in range(100)]
    effects = [
        paired_accuracies(0, 30, 100, 100),
        unpaired_accuracies(70, 100, 100, 100),
        sequential_accuracies(pairs),
        paired_accuracies(1, 1, 100, 50),
    ]
    judge([*effects, ratio("load_s", 0.9)])
    assert [it.comparisons for it in effects] == [4] * 4
    assert [it.finding for it in effects] == [Finding.worse] * 3 + [Finding.open]
    assert [(it.n, it.baseline_n, it.counts["baseline_correct"]) for it in effects[:3]] == [(100, 100, 100)] * 3
    assert [it.value for it in effects[:3]] == pytest.approx([-0.3] * 3)


@pytest.mark.parametrize(("value", "finding"), [(2.0, "larger"), (0.5, "smaller"), (1.0, "no difference shown")])
def test_a_ratio_is_found_larger_or_smaller_than_1(value: float, finding: str) -> None:
    effect = ratio("load_s", 0.001, value)
    judge([effect])
    assert str(effect.finding) == finding


def test_the_detectable_difference_is_that_of_the_method_at_the_strictest_level_of_its_family() -> None:
    differences, sizes = [0.1, -0.3, 0.2, 0.4, -0.1], [3.0, 5.0, 2.0, 4.0, 4.0]
    of_verdicts = [paired_accuracies(20, 10, 500), unpaired_accuracies(300, 400, 320, 500)]
    likelihood = paired_likelihoods(differences, sizes, "token")
    judge([*of_verdicts, likelihood])
    paired, unpaired = (it.detectable for it in of_verdicts)
    assert paired == detectable_difference(500, 30 / 500, alpha=0.05 / 2)
    assert unpaired == unpaired_detectable_difference(400, 500, 620 / 900, alpha=0.05 / 2)
    bend = skewness(differences, sizes) / 5**0.5
    assert likelihood.detectable == detectable_shift(ratio_error(differences, sizes), 5, 0.05, bend)
    assert (likelihood.detectable or 0) > (detectable_shift(ratio_error(differences, sizes), 5, 0.05) or 1)
    without = [sequential_accuracies([(True, False)]), ratio_of_medians("load_s", [2.0, 3.0], [1.0, 1.5])]
    judge(without)
    assert [it.detectable for it in without] == [None, None]


@pytest.mark.parametrize("comparisons", [1, 2, 5, 12])
def test_the_repeats_needed_are_the_fewest_that_can(comparisons: int) -> None:
    def p(repeats: int) -> float:
        return float(reference.mannwhitneyu(range(repeats), range(100, 100 + repeats), method="exact").pvalue)

    needed = repeats_needed(comparisons)
    assert comparisons * p(needed) < 0.05 <= comparisons * p(needed - 1)
