"""Our strict and flexible scores beside those of lm-evaluation-harness 0.4.13's own filters, on awkward outputs.

awkward_outputs.jsonl holds outputs with what lm-eval found and whether it scored that as correct; the program
bench/gsm8k_vs_lmeval.py --scores asks lm-eval again and compares. Where the scores differ, a line names the reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.config.task import Extractor
from runner.core.result import FinishReason, Verdict
from runner.scorers.numbers import gold_number
from runner.scorers.verdicts import judge

AWKWARD = [json.loads(line) for line in (Path(__file__).parent / "awkward_outputs.jsonl").read_text().splitlines()]

WHERE_LM_EVAL_IS_WRONG = {
    "value": "it compares texts: 18.00, .5 and 007 are not 18, 0.5 and 7, though the numbers are equal",
    "between": "it wants exactly one plain space between #### and a digit or minus: no Markdown, no bracket, no line break",
    "currency": "it wants a digit or a minus right behind ####, and a minus right before a digit or $",
    "minus sign": "it reads the typographic minus as no sign, and so the wrong number",
    "fraction": "it reads one half of a fraction: 3 or 4 where 3/4 is meant",
    "scientific": "it reads the mantissa or the exponent alone",
    "thousands": "where spaces or underscores part thousands, it reads one group alone",
    "other digits": "it knows the digits 0 to 9 only",
    "comma": "it leaves out every comma, also one that parts no thousands: 1,2 is not twelve",
    "hyphen": "it reads the hyphen between two numbers as a minus",
    "full stops": "it takes all full stops for a part of the number, or for a number: 18... and ...",
    "name": "it reads the digit in a name, as in x2 or H2O, as a number",
}


def in_words(one: dict[str, Any]) -> str:
    return f"{one['output']!r} for {one['gold']}"


@pytest.mark.parametrize("one", AWKWARD, ids=in_words)
def test_scores_are_those_of_lm_eval_but_where_it_is_wrong(one: dict[str, Any]) -> None:
    gold = gold_number(f"#### {one['gold']}")
    for extractor in (Extractor.strict, Extractor.flexible):
        found, verdict = judge(one["output"], FinishReason.stop, gold, extractor)
        by_lm_eval, is_correct = one[extractor.value]
        why = one.get("why", {}).get(extractor.value)
        assert ((verdict is Verdict.correct) != is_correct) == (why is not None), (extractor, found, by_lm_eval)
        assert why is None or why in WHERE_LM_EVAL_IS_WRONG


def test_every_reason_has_a_case() -> None:
    assert {why for one in AWKWARD for why in one.get("why", {}).values()} == set(WHERE_LM_EVAL_IS_WRONG)
    agreed = sum("why" not in one for one in AWKWARD)
    assert agreed > len(AWKWARD) / 3  # not a list of exceptions only
