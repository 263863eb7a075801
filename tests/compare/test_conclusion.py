"""The first line of a table, and rows that say the same: what may be concluded, never worded as
equality."""

from __future__ import annotations

import re

import pytest
from compared import rows_of, sentences_of

from runner_compare.render.conclusion import conclusion_text
from runner_compare.statistics import (
    McNemarTest,
    Measurements,
    SequentialTest,
    SignFlipTest,
    StudentTTest,
    Test,
)
from runner_compare.statistics.planning import expected_disagreement, questions_needed_to_detect


def conclusion(*effects: Test | str, **margins: float) -> str:
    return conclusion_text(rows_of(*effects, margins=margins))


def test_few_questions_decide_nothing_and_the_line_says_how_many_would_do() -> None:
    text = conclusion(*(McNemarTest(1, 2, 20) for _ in range(10)))
    needed = questions_needed_to_detect(expected_disagreement(3, 20), 0.05, 0.05 / 10)
    assert needed is not None
    head, _, tail = text.partition("; ")
    assert head.startswith("Of 10 comparisons none is decided: 20 questions detect only differences from ")
    assert head.endswith(" points up")
    assert tail.endswith(" in all would detect 5 points")
    about = int(tail.split()[1].replace(",", ""))
    assert needed <= about <= 1.01 * needed


def test_the_numbers_of_few_and_of_many_questions() -> None:
    few = [(1, 2), (0, 1), (2, 3), (1, 1), (2, 1), (0, 2), (1, 3), (2, 2), (1, 0), (3, 2)]
    text = conclusion(*(McNemarTest(*it, 20) for it in few))
    assert re.findall(r"[\d,.]*\d", text) == ["10", "20", "60.2", "76.6", "1,700", "5"]
    many = [(70, 30), (9, 10), (6, 5), (26, 29)]
    text = conclusion(*(McNemarTest(*it, 900) for it in many), accuracy=0.02)
    assert re.findall(r"[\d,.]*\d", text) == ["4", "1", "2", "2", "1", "2", "1,900", "1,660", "2,220", "80"]


def test_the_counts_of_each_finding_and_of_what_is_left() -> None:
    effects = [McNemarTest(*it, 500) for it in ((60, 20), (2, 60), (10, 12), (14, 12))]
    assert conclusion(*effects) == (
        "Of 4 comparisons 1 is better, 1 is worse and 2 are undecided: 500 questions detect only differences from "
        "4.6 to 4.8 points up; about 2,100 in all would detect 2 points"
    )
    assert conclusion(McNemarTest(2, 60, 500)) == "One comparison: the row is worse"
    assert conclusion(McNemarTest(0, 0, 3)) == (
        "The one comparison is not decided: 3 questions are too few to show any difference; about 578 in all would "
        "detect 5 points"
    )


def test_with_a_margin_the_line_counts_what_is_decided_about_it() -> None:
    tables = ((200, 100), (20, 20), (5, 25), (20, 220), (100, 120))
    text = conclusion(*(McNemarTest(*it, 2000) for it in tables), accuracy=0.02)
    assert text.startswith(
        "Of 5 comparisons 1 is better, 1 is as good within 2 points, 1 is worse by less than 2 points, 1 is worse by "
        "more than 2 points and 1 is undecided within 2 points (about "
    )
    assert text.endswith(
        " questions of each, those so far included, would decide with 80 % power if neither is better and they disagree "
        "as often)"
    )
    worse = conclusion(McNemarTest(10, 60, 1000), McNemarTest(9, 61, 1000), accuracy=0.05)
    assert worse == "Of 2 comparisons 2 are worse, perhaps by more than 5 points"


def test_likelihoods_repeats_early_stops_and_rows_without_a_comparison() -> None:
    likelihood = SignFlipTest([0.1, -0.3, 0.2] * 7, [3.0, 5.0, 2.0] * 7, "token")
    text = conclusion(likelihood, log_likelihood=0.01)
    assert text.startswith("The one comparison is not decided (about ")
    assert " samples of each, those so far included, would decide" in text
    assert "detect only differences from" in conclusion(
        SignFlipTest([0.1, -0.3, 0.2], [3.0, 5.0, 2.0], "token")
    )
    base, slow = (Measurements([1.0], [at, at + 0.1, at + 0.2, at + 0.3]) for at in (1.0, 4.0))
    slower, alike = StudentTTest("load_s", slow, base), StudentTTest("load_s", base, base)
    assert conclusion(slower, alike) == "Of 2 comparisons 1 is larger and 1 is undecided"
    assert conclusion(SequentialTest([(True, True)] * 9)) == "The one comparison is not decided"
    assert conclusion("no baseline", McNemarTest(2, 60, 500)) == (
        "One comparison: the row is worse; 1 further row could not be compared"
    )
    assert conclusion("no baseline", "none") == "2 rows could not be compared"
    assert conclusion() == ""


def test_rows_that_say_the_same_are_one_sentence() -> None:
    rows = rows_of(McNemarTest(4, 8, 200), McNemarTest(60, 20, 200), McNemarTest(5, 5, 200), "other")
    first, better, merged, note = sentences_of(rows)[1:]
    assert first.startswith(
        "q0 and q2 vs none (n=200 each): no difference shown; the largest Δ is −2.0 points (q0, simultaneous 95 % "
        "interval "
    )
    assert "; ≥ 80 % power to detect 8." in first
    assert merged == ""
    assert better.startswith("q1 vs none (n=200): better (")
    assert note == "quantization=q3: not compared, other"
    many = rows_of(*(McNemarTest(5, 5, 200) for _ in range(12)))
    assert next(filter(None, sentences_of(many))).startswith(
        "q0, q1, q2, q3, q4, q5, q6, q7 and 4 more vs none"
    )


def test_rows_with_another_verdict_about_the_margin_stay_apart() -> None:
    decided = [McNemarTest(5, 5, 1000), McNemarTest(4, 4, 1000)]
    rows = rows_of(*decided, McNemarTest(90, 90, 1000), margins={"accuracy": 0.02})
    sentences = sentences_of(rows)
    assert sentences[1].endswith("; as good within 2 points")
    assert "q0 and q1 vs none" in sentences[1]
    assert (
        "; undecided within 2 points (if neither is better and they disagree as often, about " in sentences[3]
    )


@pytest.mark.parametrize("margins", [{}, {"accuracy": 0.02}])
def test_nothing_is_called_equal(margins: dict[str, float]) -> None:
    rows = rows_of(*(McNemarTest(1, 1, n) for n in (10, 400, 400, 10_000)), margins=margins)
    for text in [conclusion_text(rows), *sentences_of(rows)]:
        assert not {"equal", "same", "identical", "equivalent"} & set(text.replace(",", " ").split())
