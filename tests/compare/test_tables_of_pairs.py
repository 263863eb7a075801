"""What is said of a table of pairs never contradicts itself: first line, sentence, interval,
verdict and requirements."""

from __future__ import annotations

import re

import pytest
from compared import KEYS, rows_of, sentences_of

from runner_compare.features.gates.section import Requirements, check_requirements_on_runs, parse_requirements
from runner_compare.model.data import Table, TableRow
from runner_compare.render.conclusion import conclusion_text
from runner_compare.statistics import Decision, Finding, MarginVerdict, McNemarTest

SHOWN = re.compile(r"interval \[(\S+), (\S+)\], p[=<]")
MARGINS = 2, 10  # points: less and more than what so few questions can show
ROUNDING = 0.0501  # points, of a number with one digit
SAID = {  # the verdict about a margin → what is said of the row, in the answer and in the sentence; --require
    (Finding.better, MarginVerdict.better): ("better", True),
    (Finding.open, MarginVerdict.as_good): ("no loss above {} points", True),
    (Finding.open, MarginVerdict.undecided): ("undecided", False),
    (Finding.worse, MarginVerdict.worse_but_within): ("by less than {} points", True),
    (Finding.worse, MarginVerdict.undecided): ("perhaps by more than {} points", False),
    (Finding.worse, MarginVerdict.worse_by_more): ("worse by more than {} points", False),
}


def points_shown(text: str) -> float:
    return float(text.replace("−", "-"))


class Unplanned(McNemarTest):
    """McNemar's test without plans, which are not of interest here and take long."""

    can_plan = can_plan_detection = False

    def detectable_difference(self, level: float) -> float | None:
        return 0.1


def tables(n: int) -> list[Unplanned]:
    """Return the test of each table of n pairs."""
    return [Unplanned(wins, losses, n) for wins in range(n + 1) for losses in range(n + 1 - wins)]


def decided(row: TableRow) -> Decision:
    assert row.effect is not None
    return row.effect


def agrees(test: Unplanned, points: int) -> None:
    """Check all that is said of a table of one comparison, with a margin of so many points."""
    margin = points / 100
    rows = rows_of(test, margins={"accuracy": margin})
    it = decided(rows[1])
    assert it.verdict is not None
    said, is_met = SAID[it.finding, it.verdict]
    first, text = conclusion_text(rows), sentences_of(rows)[1]
    for phrase, _ in SAID.values():
        is_said = [phrase.format(points) in words.lower() for words in (first, text)]
        assert is_said == [phrase == said] * 2, (phrase, first, text)
    assert f"{it.finding} (" in text
    # The interval is that of the very tests: it excludes 0, or minus the margin, where they reject,
    # and only there.
    assert (it.low > 0, it.high < 0) == (it.finding is Finding.better, it.finding is Finding.worse), text
    assert (it.low > -margin) == (
        said_good := it.verdict not in (MarginVerdict.undecided, MarginVerdict.worse_by_more)
    )
    assert (it.high < -margin) == (it.verdict is MarginVerdict.worse_by_more), text
    shown = SHOWN.search(text)
    assert shown is not None, text
    low, high = points_shown(shown[1]), points_shown(shown[2])
    assert (low > 0, high < 0) == (it.low > 0, it.high < 0), text
    assert low > -100 * margin - ROUNDING or not said_good, text
    assert high < -100 * margin + ROUNDING or it.verdict is not MarginVerdict.worse_by_more, text
    table = Table("any", KEYS, rows)
    check_requirements_on_runs(
        [table], parse_requirements([f"margin={points} finding!=worse"], [row.run for row in rows])
    )
    assert [one.met for one in table.get_section_data(Requirements).of_rows] == [
        is_met,
        it.finding is not Finding.worse,
    ], text


@pytest.mark.sampled(35)
@pytest.mark.parametrize("points", MARGINS)
@pytest.mark.parametrize("n", range(1, 31))
def test_all_that_is_said_of_a_table_agrees(n: int, points: int) -> None:
    for it in tables(n):
        agrees(it, points)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("points", MARGINS)
@pytest.mark.parametrize("n", range(31, 61))
def test_all_that_is_said_of_a_larger_table_agrees(n: int, points: int) -> None:
    for it in tables(n):
        agrees(it, points)


def test_a_row_that_is_not_shown_to_be_worse_is_not_worse_by_more() -> None:
    """5 losses of 20: two tests of different kinds said `no difference shown` and `worse by more
    than 2 points`."""
    rows = rows_of(McNemarTest(0, 5, 20), margins={"accuracy": 0.02})
    it = decided(rows[1])
    assert (it.finding, it.verdict) == (Finding.open, MarginVerdict.undecided)
    assert "worse by more" not in sentences_of(rows)[1] + conclusion_text(rows)
    assert [it.low, it.high] == pytest.approx([-0.491, 0.0006], abs=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("count", [2, 3, 7])
def test_rows_of_one_table_agree_with_their_intervals(count: int) -> None:
    """With several comparisons the tests are stricter than the intervals of 95 %: what is said
    still holds there."""
    tests = tables(24)
    for start in range(0, len(tests), count):
        rows = rows_of(*tests[start : start + count], margins={"accuracy": 0.1})
        for it in map(decided, rows[1:]):
            assert it.finding is not Finding.better or it.low > 0
            assert it.finding is not Finding.worse or it.high < 0
            assert it.verdict in (MarginVerdict.undecided, MarginVerdict.worse_by_more) or it.low > -0.1
            assert it.verdict is not MarginVerdict.worse_by_more or (
                it.high < -0.1 and it.finding is Finding.worse
            )
