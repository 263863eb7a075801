"""Whether an answer is right: a number where the gold answer is one, or the letter of a choice."""

from __future__ import annotations

from runner.config.task import Extractor
from runner.core.result import FinishReason, Verdict
from runner.scorers.letters import LETTERS, extract_letters
from runner.scorers.numbers import extract_all


def judge(
    text: str, finish_reason: FinishReason, gold: str, extractor: Extractor
) -> tuple[dict[str, str | None], Verdict]:
    """Return what each extractor found, and the verdict: an answer that never came is not a wrong answer."""
    found = {each.value: number for each, number in (extract_letters if gold in LETTERS else extract_all)(text).items()}
    answer = found[extractor.value]
    if finish_reason is FinishReason.error:
        return found, Verdict.cut_off
    if answer is not None and answer == gold:
        return found, Verdict.correct
    if was_cut_off(found, finish_reason, extractor):
        return found, Verdict.cut_off
    return found, Verdict.no_answer if answer is None else Verdict.wrong


def was_cut_off(found: dict[str, str | None], finish_reason: FinishReason, extractor: Extractor) -> bool:
    """Whether a text ended before its answer: it may hold numbers, and had not said by then that this one is it."""
    said = found[Extractor.strict.value if extractor is Extractor.flexible else extractor.value]
    return finish_reason is not FinishReason.stop and said is None
