"""Our strict and flexible scores compared with those of lm-evaluation-harness 0.4.13's own filters,
on awkward outputs.

awkward_outputs.jsonl has outputs, the numbers that lm-eval found, and whether it scored them as
correct. The program bench/gsm8k_vs_lmeval.py runs lm-eval again and compares. If the scores differ,
a line names the reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.config.extractors import Extractor
from runner.scorers.numbers import find_gold_number
from runner.scorers.verdicts import judge_answer
from runner_base.result import Answer, FinishReason, Verdict

AWKWARD = [
    json.loads(line) for line in (Path(__file__).parent / "awkward_outputs.jsonl").read_text().splitlines()
]

WHERE_LM_EVAL_IS_WRONG = {
    "value": "it compares texts: 18.00, .5 and 007 are not 18, 0.5 and 7, though the numbers are equal",
    "between": "it expects exactly one plain space between #### and a digit or minus: no Markdown, bracket or line break",
    "currency": "it expects a digit or a minus right after ####, and a minus right before a digit or $",
    "minus sign": "it ignores the typographic minus, and so reads the wrong number",
    "fraction": "it reads one half of a fraction: 3 or 4 instead of 3/4",
    "scientific": "it reads only the mantissa or the exponent",
    "thousands": "if spaces or underscores separate thousands, it reads only one group",
    "other digits": "it knows only the digits 0 to 9",
    "comma": "it drops every comma, also one that does not separate thousands: 1,2 is not twelve",
    "hyphen": "it reads the hyphen between two numbers as a minus",
    "full stops": "it reads all full stops as a part of the number, or as a number: 18... and ...",
    "name": "it reads the digit in a name, as in x2 or H2O, as a number",
}


def in_words(one: dict[str, Any]) -> str:
    return f"{one['output']!r} for {one['gold']}"


@pytest.mark.parametrize("one", AWKWARD, ids=in_words)
def test_scores_equal_lm_evals_except_where_it_is_wrong(one: dict[str, Any]) -> None:
    gold = find_gold_number(f"#### {one['gold']}")
    judged = judge_answer(Answer(one["output"], [], FinishReason.stop), gold)
    for extractor in (Extractor.strict, Extractor.flexible):
        answers, verdict = judged.found, judged.verdicts[extractor]
        by_lm_eval, is_correct = one[extractor.value]
        why = one.get("why", {}).get(extractor.value)
        assert ((verdict is Verdict.correct) != is_correct) == (why is not None), (
            extractor,
            answers,
            by_lm_eval,
        )
        assert why is None or why in WHERE_LM_EVAL_IS_WRONG


def test_every_reason_has_a_case() -> None:
    assert {why for one in AWKWARD for why in one.get("why", {}).values()} == set(WHERE_LM_EVAL_IS_WRONG)
    agreed = sum("why" not in one for one in AWKWARD)
    assert agreed > len(AWKWARD) / 3  # not only exceptions
