from __future__ import annotations

import pytest

from runner.tasks.recall.cases import RenderedCase, ValueForm
from runner.tasks.recall.judging import extract_and_judge_values
from runner_base.result import Answer, FinishReason, Verdict

STOP, LENGTH = FinishReason.stop, FinishReason.length
CORRECT, WRONG, NONE, CUT_OFF = Verdict.correct, Verdict.wrong, Verdict.no_answer, Verdict.cut_off
NUMBER = RenderedCase("", "", "", "", ("4713920",))
TWO = RenderedCase("", "", "", "", ("4713920", "1234567"))
WORD = RenderedCase("", "", "", "", ("amber-kite",), ValueForm.pair)
UUID = RenderedCase("", "", "", "", ("123e4567-e89b-42d3-a456-426614174000",), ValueForm.uuid)
NAMES = RenderedCase(
    "", "", "", "", ("ABCDE", "FGHIJ"), ValueForm.known, frozenset({"ABCDE", "FGHIJ", "KLMNO"})
)
TOTAL = RenderedCase("", "", "", "", ("12",), ValueForm.total)


@pytest.mark.parametrize(
    ("asked", "text", "reason", "verdict"),
    [
        (NUMBER, "It is 4713920.", STOP, CORRECT),
        (NUMBER, "It is 4,713,920, as the text says.", STOP, CORRECT),
        (NUMBER, "4 713 920", STOP, CORRECT),
        (NUMBER, "**4713920**", STOP, CORRECT),
        (NUMBER, "The special magic number for amber-kite is: 4713920.\nOne of the", LENGTH, CORRECT),
        # what follows the asked number does not count
        (NUMBER, "4713920 and 1234567", STOP, CORRECT),
        (NUMBER, "1234567 or 4713920", STOP, WRONG),
        (NUMBER, "14713920", STOP, NONE),  # of another number of digits
        (NUMBER, "471392", STOP, NONE),
        (NUMBER, "4713921", STOP, WRONG),
        (NUMBER, "I do not know.", STOP, NONE),
        (NUMBER, "", STOP, NONE),
        (NUMBER, "The text says that", LENGTH, CUT_OFF),
        (NUMBER, "4713921 is", LENGTH, WRONG),
        (NUMBER, "<think>It is 4713920", LENGTH, CUT_OFF),
        (NUMBER, "<think>4713921?</think>4713920", STOP, CORRECT),
        (NUMBER, "<think>4713920</think>I do not know", STOP, NONE),
        (TWO, "1234567 and 4713920", STOP, CORRECT),
        (TWO, "4713920, 1,234,567", STOP, CORRECT),
        (TWO, "4713920 and once more 4713920", STOP, WRONG),
        (TWO, "4713920", LENGTH, CUT_OFF),
        (TWO, "4713920 and 7654321", STOP, WRONG),
        (WORD, "It is Amber Kite.", STOP, CORRECT),
        (WORD, "amber-kite", STOP, CORRECT),
        (WORD, "amber-lamp", STOP, WRONG),
        (WORD, "kite-amber", STOP, NONE),
        (UUID, "123E4567-E89B-42D3-A456-426614174000", STOP, CORRECT),
        (UUID, "123e4567-e89b-42d3-a456-426614174001", STOP, WRONG),
        (UUID, "123e4567-e89b-42d3-a456", STOP, NONE),
        (NAMES, "FGHIJ ABCDE", STOP, CORRECT),
        (NAMES, "VALUE: ABCDE, KLMNO", STOP, WRONG),
        (TOTAL, "3*4=12\n#### 12", STOP, CORRECT),
        (TOTAL, "There are 12 of them.", STOP, CORRECT),
        (TOTAL, "There are 13.", STOP, WRONG),
        (TOTAL, "many", STOP, NONE),
        (TOTAL, "First 3", LENGTH, CUT_OFF),
    ],
)
def test_verdicts(asked: RenderedCase, text: str, reason: FinishReason, verdict: Verdict) -> None:
    assert extract_and_judge_values(Answer.from_text(text, [], reason), asked)[1] is verdict


def test_what_was_found_is_kept() -> None:
    assert (
        extract_and_judge_values(Answer.from_text("It is 1,234,567 or 4713920.", [], STOP), TWO)[0]
        == "1234567, 4713920"
    )
