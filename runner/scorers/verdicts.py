"""Judges whether an answer is right: a number if the gold answer is one, or the letter of a choice."""

from __future__ import annotations

from runner.config.task import Extractor
from runner.core.result import FinishReason, Verdict
from runner.scorers.letters import LETTERS, extract_letters
from runner.scorers.numbers import extract_all


def judge(
    text: str, finish_reason: FinishReason, gold: str, extractor: Extractor
) -> tuple[dict[str, str | None], Verdict]:
    """Return each extractor's answer, and the verdict: an answer that is cut off is not a wrong answer."""
    answers = {
        each.value: number for each, number in (extract_letters if gold in LETTERS else extract_all)(text).items()
    }
    answer = answers[extractor.value]
    if finish_reason is FinishReason.error:
        return answers, Verdict.cut_off
    if answer is not None and answer == gold:
        return answers, Verdict.correct
    if was_cut_off(answers, finish_reason, extractor):
        return answers, Verdict.cut_off
    return answers, Verdict.no_answer if answer is None else Verdict.wrong


def was_cut_off(answers: dict[str, str | None], finish_reason: FinishReason, extractor: Extractor) -> bool:
    """Whether a text ended before its answer: it may contain numbers, but none is marked as the answer."""
    marked_answer = answers[Extractor.strict.value if extractor is Extractor.flexible else extractor.value]
    return finish_reason is not FinishReason.stop and marked_answer is None
