"""Rows whose own interval says more than their verdict, since comparisons share their error."""

from __future__ import annotations

from compared import KEYS, rows_of

from runner_compare.data import Table
from runner_compare.sections.shared_error import SECTION as SHARED_ERROR
from runner_compare.statistics import Finding, McNemar

DEMO = ((33, 44), (3, 5), (51, 21), (4, 38), (1, 2), (7, 13))  # wins and losses of docs/compare.md


def said(*effects: McNemar, **margins: float) -> list[str]:
    return SHARED_ERROR.sentences(Table("any", KEYS, rows_of(*effects, margins=margins)))


def test_a_row_is_named_whose_interval_lies_within_the_margin_and_whose_verdict_is_open() -> None:
    effects = [McNemar(*pair, 500) for pair in DEMO]
    assert said(*effects, accuracy=0.02) == [
        "q1: decided if compared alone, undecided among the 6 comparisons of this table, which share 5 % (Holm); the "
        "intervals are those of a comparison alone"
    ]
    assert said(*effects) == [], "no margin, and all others are found or far from it"


def test_alone_the_same_row_is_decided_and_nothing_is_said() -> None:
    assert said(McNemar(3, 5, 500), accuracy=0.02) == []


def test_a_difference_that_holm_does_not_find_is_named() -> None:
    effects = [McNemar(20, 8, 500), *(McNemar(10, 10, 500) for _ in range(9))]
    assert [row.effect.finding for row in rows_of(*effects)[1:2] if row.effect] == [Finding.open]
    assert said(*effects)[0].startswith("q0: decided if compared alone")
    assert said(effects[0]) == []
