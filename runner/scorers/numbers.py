"""Score an answer that is a number: extract it, strictly or flexibly, and compare it with the gold one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from runner.config.task import Extractor
from runner.core.result import FinishReason, Verdict

_NUMBER = r"(?:-?\$\s?|\$-|-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"  # -5, $70,000.50, -$3, $-3, .5
_STRICT = re.compile(rf"####[\s*]*({_NUMBER})")  # **18**: bold is no part of the number
_FLEXIBLE = re.compile(rf"(?<![\w.])({_NUMBER})")  # in 10-5 the hyphen is no sign, in x2 the 2 no number


def judge(
    text: str, finish_reason: FinishReason, gold: str, extractor: Extractor
) -> tuple[dict[str, str | None], Verdict]:
    """Return what each extractor found, and the verdict: an answer that never came is not a wrong answer."""
    extracted = {each.value: extract(text, each) for each in Extractor}
    answer = extracted[extractor.value]
    # a text that was cut off may hold numbers, but not its answer, unless it had said #### by then
    if finish_reason is not FinishReason.stop and extracted[Extractor.strict.value] is None:
        return extracted, Verdict.cut_off
    if answer is None:
        return extracted, Verdict.no_answer
    return extracted, Verdict.correct if answer == gold else Verdict.wrong


def gold_number(answer: str) -> str:
    """Return the number after the last #### of a worked answer; raises ValueError when there is none."""
    found = _STRICT.findall(answer)
    if not found:
        raise ValueError("the answer has no '#### NUMBER'")
    return plain_number(found[-1])


def extract(text: str, extractor: Extractor) -> str | None:
    """Return the answer's number in plain form, or None: the first after ####, or else the last of the text."""
    text = text.replace("\N{MINUS SIGN}", "-")
    strict = _STRICT.search(text)
    if strict:
        return plain_number(strict[1])
    if extractor is Extractor.strict:
        return None
    found = _FLEXIBLE.findall(text)
    return plain_number(found[-1]) if found else None


def plain_number(text: str) -> str:
    """Write a number without thousands commas, currency sign and trailing zeros: `$70,000.0` is `70000`."""
    digits = re.sub(r"[,$\s]", "", text)
    try:
        value = Decimal(digits)
    except InvalidOperation as error:
        raise ValueError(f"not a number: {text!r}") from error
    plain = f"{value.normalize():f}"
    return "0" if plain == "-0" else plain
