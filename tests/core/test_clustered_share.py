"""The interval of an accuracy over families: what it does at the edges, and beside Wilson's."""

from __future__ import annotations

import pytest

from runner.core.clustered_share import clustered_share_interval
from runner.core.stats import wilson_interval


def test_independent_questions_have_nearly_wilsons_interval() -> None:
    solved = [number % 3 > 0 for number in range(600)]
    low, high = clustered_share_interval(solved, range(600))
    assert (low, high) == pytest.approx(wilson_interval(400, 600), abs=0.003)
    assert low < wilson_interval(400, 600)[0]


def test_families_whose_questions_agree_count_once() -> None:
    families = [number // 10 for number in range(400)]
    low, high = clustered_share_interval([family % 2 == 0 for family in families], families)
    of_families = wilson_interval(20, 40)
    assert (low, high) == pytest.approx(of_families, abs=0.02)
    assert high - low > 2.5 * (wilson_interval(200, 400)[1] - wilson_interval(200, 400)[0])


def test_questions_that_differ_within_families_only_are_not_worth_more_than_questions() -> None:
    low, high = clustered_share_interval([number % 2 == 0 for number in range(400)], [it // 4 for it in range(400)])
    plain = wilson_interval(200, 400)
    assert low <= plain[0]
    assert high >= plain[1]


@pytest.mark.parametrize("right", [True, False])
def test_if_all_answers_agree_the_families_are_counted(right: bool) -> None:
    low, high = clustered_share_interval([right] * 200, [number // 10 for number in range(200)])
    assert high == pytest.approx(1.0 if right else 0.18, abs=0.02)
    assert low == pytest.approx(0.82 if right else 0.0, abs=0.02)


def test_one_family_says_nothing() -> None:
    assert clustered_share_interval([True, False], ["a", "a"]) == (0.0, 1.0)
