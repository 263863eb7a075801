"""A rule that reads few of the answers is named beside the score, with the rule that reads more."""

from __future__ import annotations

import pytest

from runner_compare.render.answers import format_unextracted_answers_message
from runner_compare.statistics.unread_answers import ENDED, EXTRACTOR, FOUND, SCORER

AGAIN = "repeat the command with task.extractor=flexible"


def found(strict: int, flexible: int, ended: int = 450) -> dict[str, float]:
    counts = {f"{FOUND}strict": strict, f"{FOUND}flexible": flexible, f"{FOUND}boxed": 0}
    return {ENDED: ended, "accuracy/strict": 0.0, "accuracy/flexible": 0.031, **counts}


def test_the_note_has_the_counts_of_each_row_and_the_command() -> None:
    rows = [("none", found(8, 393), {EXTRACTOR: "strict"}), ("int8", found(4, 390), {EXTRACTOR: "strict"})]
    message = format_unextracted_answers_message(rows)
    assert message.startswith("task.extractor=strict finds fewer answers in complete texts than flexible: ")
    assert (
        "none: 8 of 450 against 393 (accuracy by flexible: 3.1%), "
        "int8: 4 of 450 against 390 (accuracy by flexible: 3.1%). " in message
    )
    assert message.endswith(AGAIN)
    single = format_unextracted_answers_message(
        [("", found(1200, 1400, 1400), {EXTRACTOR: "strict", SCORER: "null"})]
    )
    assert "flexible: 1,200 of 1,400 against 1,400 (" in single


@pytest.mark.parametrize(
    ("metrics", "params"),
    [
        (found(390, 393), {EXTRACTOR: "strict"}),  # a few answers without a mark
        (found(0, 1, ended=1), {EXTRACTOR: "strict"}),
        (found(0, 0), {EXTRACTOR: "strict"}),  # nothing was answered by any rule
        (found(8, 393), {EXTRACTOR: "flexible"}),
        (found(8, 393), {EXTRACTOR: "strict", SCORER: "mine"}),
        ({"accuracy": 0.0, "n": 450}, {EXTRACTOR: "strict"}),  # a record of an earlier version
        ({"perplexity": 3.0}, {}),
    ],
)
def test_nothing_is_said_where_the_rule_reads_what_there_is(
    metrics: dict[str, float], params: dict[str, str]
) -> None:
    assert format_unextracted_answers_message([("none", metrics, params)]) == ""
