"""The answer of a table, and rows that say the same: what may be concluded, never worded as equality."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compared import rows_of, sentences_of

from runner_compare.render.conclusion import conclusion_text, format_conclusion_sentences
from runner_compare.render.margins import UNDECIDED
from runner_compare.statistics import (
    McNemarTest,
    Measurements,
    SequentialTest,
    SignFlipTest,
    StudentTTest,
    Test,
)
from runner_compare.statistics.planning import estimate_disagreement_rate, plan_questions_to_detect


def sentences(*effects: Test | str, **margins: float) -> list[str]:
    return format_conclusion_sentences(rows_of(*effects, margins=margins))


def conclusion(*effects: Test | str, **margins: float) -> str:
    return conclusion_text(rows_of(*effects, margins=margins))


def count_in(text: str, noun: str) -> int:
    """Return the number before a noun."""
    return int(text.partition(f" {noun}")[0].split()[-1].replace(",", ""))


def test_few_questions_decide_nothing_and_the_answer_says_how_many_would_do() -> None:
    text = conclusion(*(McNemarTest(1, 2, 20) for _ in range(10)))
    needed = plan_questions_to_detect(estimate_disagreement_rate(3, 20), 0.05, 0.05 / 10)
    assert needed is not None
    assert text.startswith(f"All 10 candidates are {UNDECIDED}: ")
    about = count_in(text, "questions to detect 5 points")
    assert needed <= about <= 1.01 * needed


def test_each_finding_names_its_candidates() -> None:
    effects = [McNemarTest(*it, 500) for it in ((60, 20), (2, 60), (10, 12), (14, 12))]
    worse, better, undecided = sentences(*effects)
    assert (worse, better) == ("q1 is worse than the baseline.", "q0 is better than the baseline.")
    assert undecided.startswith(f"q2 and q3 are {UNDECIDED}: differences below 4.8 points ")
    assert count_in(undecided, "questions to detect 2 points") == 2_100
    assert conclusion(McNemarTest(2, 60, 500)) == "q0 is worse than the baseline."
    few = conclusion(McNemarTest(0, 0, 3))
    assert few.startswith(f"q0 is {UNDECIDED}: 3 questions are too few ")
    assert count_in(few, "questions to detect 5 points") == 578


def test_with_a_margin_the_answer_tells_all_verdicts_apart() -> None:
    tables = ((200, 100), (20, 20), (5, 25), (20, 220), (100, 120))
    worse, others, undecided = sentences(*(McNemarTest(*it, 2000) for it in tables), accuracy=0.02)
    assert worse == "q2 is worse by less than 2 points; q3 is worse by more than 2 points."
    assert others == "q0 is better than the baseline; q1 has no loss above 2 points."
    assert undecided.startswith(f"q4 is {UNDECIDED}: ")
    assert undecided.endswith(" more questions or a larger margin.")
    both = conclusion(McNemarTest(10, 60, 1000), McNemarTest(9, 61, 1000), accuracy=0.05)
    assert both == "q0 and q1 are worse (perhaps by more than 5 points)."


def test_the_questions_that_would_decide_are_those_of_the_hardest_comparison() -> None:
    rows = rows_of(McNemarTest(20, 20, 200), McNemarTest(10, 12, 200), margins={"accuracy": 0.02})
    needed = [row.effect.needed for row in rows if row.effect]
    assert all(needed)
    more = max(count for count in needed if count) - 200
    assert more <= count_in(conclusion_text(rows), "more questions") <= 1.01 * more


def test_likelihoods_repeats_early_stops_and_rows_without_a_comparison() -> None:
    likelihood = SignFlipTest([0.1, -0.3, 0.2] * 7, [3.0, 5.0, 2.0] * 7, "token")
    text = conclusion(likelihood, log_likelihood=0.01)
    assert text.startswith(f"q0 is {UNDECIDED}: ")
    assert count_in(text, "more documents") > 0
    assert "nats/token" in conclusion(SignFlipTest([0.1, -0.3, 0.2], [3.0, 5.0, 2.0], "token"))
    base, slow = (Measurements([1.0], [at, at + 0.1, at + 0.2, at + 0.3]) for at in (1.0, 4.0))
    slower, alike = StudentTTest("load_s", slow, base), StudentTTest("load_s", base, base)
    assert sentences(slower, alike) == ["q0 (load_s) is larger.", f"q1 (load_s) is {UNDECIDED}."]
    assert conclusion(SequentialTest([(True, True)] * 9)) == f"q0 is {UNDECIDED}."
    assert sentences("no baseline", McNemarTest(2, 60, 500)) == [
        "q1 is worse than the baseline.",
        "1 run could not be compared.",
    ]
    assert conclusion("no baseline", "none") == "2 runs could not be compared."
    assert conclusion() == ""


def test_a_candidate_that_was_compared_several_times_gets_one_sentence() -> None:
    rows = rows_of(
        McNemarTest(2, 60, 500),
        McNemarTest(10, 12, 500),
        McNemarTest(20, 20, 2000),
        margins={"accuracy": 0.02},
    )
    names = [("none", "test"), ("fp4", "test"), ("fp4", "hard5"), ("int8", "test")]
    for row, (quantization, split) in zip(rows, names, strict=True):
        row.config = {"quantization.name": quantization, "task.split": split}
    rows[2].baseline = replace(rows[0], config={"quantization.name": "none", "task.split": "hard5"})
    fp4, int8, advice = format_conclusion_sentences(rows[1:])
    assert fp4 == f"fp4 is worse by more than 2 points on test and {UNDECIDED} on hard5."
    assert int8 == "int8 has no loss above 2 points on test."
    assert advice.startswith("Undecided: ")
    several = [
        replace(row, config=row.config | {"quantization.name": f"q{at}"}) for at, row in enumerate(rows)
    ]
    assert format_conclusion_sentences(several[1:])[0] == "q1 on test is worse by more than 2 points."


def test_the_answer_has_at_most_three_sentences_and_names_few_candidates() -> None:
    effects = [McNemarTest(*it, 500) for it in [(60, 20)] * 5 + [(2, 60)] * 5 + [(10, 12)] * 5]
    answer = sentences(*effects, "other")
    assert len(answer) == 4
    assert answer[0] == "5 of 15 candidates are worse than the baseline."
    assert answer[1] == "5 of 15 candidates are better than the baseline."
    assert answer[2].startswith(f"5 of 15 candidates are {UNDECIDED}: ")
    assert answer[3] == "1 run could not be compared."


def test_rows_that_say_the_same_are_one_sentence() -> None:
    rows = rows_of(McNemarTest(4, 8, 200), McNemarTest(60, 20, 200), McNemarTest(5, 5, 200), "other")
    first, better, merged, note = sentences_of(rows)[1:]
    assert first.startswith("q0 and q2 vs none (n=200 each): no difference shown. ")
    assert "−2.0 points (q0, simultaneous 95 % interval " in first
    assert " 8." in first.partition("Holm")[2]
    assert merged == ""
    assert better.startswith("q1 vs none (n=200): better (")
    assert note == "quantization=q3: not compared, other."
    many = rows_of(*(McNemarTest(5, 5, 200) for _ in range(12)))
    assert next(filter(None, sentences_of(many))).startswith(
        "q0, q1, q2, q3, q4, q5, q6, q7 and 4 more vs none"
    )


def test_rows_with_another_verdict_about_the_margin_stay_apart() -> None:
    decided = [McNemarTest(5, 5, 1000), McNemarTest(4, 4, 1000)]
    rows = rows_of(*decided, McNemarTest(90, 90, 1000), margins={"accuracy": 0.02})
    sentences = sentences_of(rows)
    assert sentences[1].endswith(" No loss above 2 points.")
    assert "q0 and q1 vs none" in sentences[1]
    assert " Undecided within 2 points: about " in sentences[3]


@pytest.mark.parametrize("margins", [{}, {"accuracy": 0.02}])
def test_nothing_is_called_equal(margins: dict[str, float]) -> None:
    rows = rows_of(*(McNemarTest(1, 1, n) for n in (10, 400, 400, 10_000)), margins=margins)
    for text in [conclusion_text(rows), *sentences_of(rows)]:
        assert not {"equal", "same", "identical", "equivalent"} & set(text.replace(",", " ").split())
