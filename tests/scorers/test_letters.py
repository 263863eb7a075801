"""Letters of choices: found in gold answers and in completions, and judged like numbers."""

from __future__ import annotations

import pytest

from runner.config.extractors import OF_NUMBERS, Extractor
from runner.scorers import letters
from runner.scorers.extractors import extract_by_all_extractors
from runner.scorers.letters import find_gold_letter, parse_choice_letter
from runner.scorers.verdicts import judge_answer
from runner_base.result import Answer, FinishReason, Verdict


@pytest.mark.parametrize(
    ("text", "strict", "flexible", "boxed", "the_answer_is"),
    [
        ("So it is.\n#### B", "B", "B", None, None),
        ("#### (C).", "C", "C", None, None),
        ("#### **D**", "D", "D", None, None),
        ("The answer is (B) because of A.", None, "A", None, "B"),
        ("Answer is: **C**", None, "C", None, "C"),
        ("It is \\boxed{\\text{B}} then.", None, "B", "B", None),
        ("A pen costs more. I think so. B. would do", None, "B", None, None),
        ("A pen costs more. I think so.", None, None, None, None),
        ("#### Because", None, None, None, None),
        ("the answer is Bob's, CO2 or x_A", None, None, None, None),
        ("", None, None, None, None),
    ],
)
def test_what_each_rule_finds(
    text: str, strict: str | None, flexible: str | None, boxed: str | None, the_answer_is: str | None
) -> None:
    assert [*extract_by_all_extractors(text, letters).values()] == [strict, flexible, boxed, the_answer_is]


@pytest.mark.parametrize(
    ("answer", "after", "letter"),
    [
        ("B", None, "B"),
        ("b", None, "B"),
        ("(C)", None, "C"),
        ("D.", None, "D"),
        ("Since 2 is even.\n#### A", None, "A"),
        ("Long. The answer is (B).", "The answer is", "B"),
        ("B", "The answer is", None),
        ("Bob", None, None),
        ("12", None, None),
    ],
)
def test_gold_answers(answer: str, after: str | None, letter: str | None) -> None:
    assert find_gold_letter(answer, after) == letter


def test_letters_and_numbers_are_judged_by_their_own_rules() -> None:
    stop = FinishReason.stop
    assert judge_answer(Answer("#### B", [], stop), "B").verdicts[Extractor.strict] is Verdict.correct
    assert judge_answer(Answer("#### C", [], stop), "B").verdicts[Extractor.strict] is Verdict.wrong
    assert judge_answer(Answer("#### 2", [], stop), "B").verdicts[Extractor.strict] is Verdict.no_answer
    assert (
        judge_answer(Answer("B it may be", [], FinishReason.length), "A").verdicts[Extractor.strict]
        is Verdict.cut_off
    )
    assert judge_answer(Answer("#### B", [], stop), "2").verdicts[Extractor.strict] is Verdict.no_answer


@pytest.mark.sampled(2)
@pytest.mark.parametrize("piece", ["#### ", "the answer is ", "A ", " *("])
def test_a_long_text_of_anything_ends(piece: str) -> None:
    """A pattern whose time grew with the square of the length would take many minutes here."""
    assert set(extract_by_all_extractors("####" + piece * (600_000 // len(piece)), letters)) == set(
        OF_NUMBERS
    )


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), (" b ", "B"), ("(C)", "C"), ("B. blue", "B"), ("B) blue", "B"), ("(B) blue", "B"), ("blue", None),
     ("A pen", None), ("4", None), ("AB", None), ("", None)],
)  # fmt: skip
def test_a_value_that_names_a_choice(text: str, letter: str | None) -> None:
    assert parse_choice_letter(text) == letter
