"""Effects: one judge for all of them, families by measure, and the difference that each method can detect."""

from __future__ import annotations

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
from runner.core.ratios import detectable_shift, ratio_error
from runner.core.stats import detectable_difference, unpaired_detectable_difference


def ratio(measure: str, p: float, value: float = 2.0) -> Effect:
    return Effect(Method.rank_sum, measure, value, 1.5, 2.5, p, 5, 5, is_ratio=True)


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
    assert likelihood.detectable == detectable_shift(ratio_error(differences, sizes), 5, 0.05)
    without = [sequential_accuracies([(True, False)]), ratio_of_medians("load_s", [2.0, 3.0], [1.0, 1.5])]
    judge(without)
    assert [it.detectable for it in without] == [None, None]


@pytest.mark.parametrize("comparisons", [1, 2, 5, 12])
def test_the_repeats_needed_are_the_fewest_that_can(comparisons: int) -> None:
    def p(repeats: int) -> float:
        return float(reference.mannwhitneyu(range(repeats), range(100, 100 + repeats), method="exact").pvalue)

    needed = repeats_needed(comparisons)
    assert comparisons * p(needed) < 0.05 <= comparisons * p(needed - 1)
