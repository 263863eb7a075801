"""Judges whether an answer is right: a number, the letter of a choice, or what the scorer of a plug-in finds."""

from __future__ import annotations

from runner.config.task import Extractor
from runner.core.model_text import FinishReason, ModelText
from runner.core.result import Verdict
from runner.scorers.base import scorer_of
from runner.scorers.letters import LETTERS, extract_letters
from runner.scorers.numbers import extract_all

EXTRACTORS = frozenset(each.value for each in Extractor)
_THINKING_REMOVED = "only what follows thinking is an answer, and a boxed expression that is no number is none"
# what changed with a task's VERSION, for those who compare with a job that was scored before it
NEW_RULES = {("gsm8k", 3): _THINKING_REMOVED, ("agents", 4): _THINKING_REMOVED}


def judge(one: ModelText, gold: str, by: str) -> tuple[dict[str, str | None], Verdict]:
    """Return each extractor's answer, and the verdict: an answer that is cut off is not a wrong answer.

    The extractor `by` decides, or the scorer of a plug-in, whose answer is then the only one. Only what follows the
    thinking is read; a text that ended while the model was thinking is cut off.
    """
    answers: dict[str, str | None]
    text = one.parts.answer
    if by in EXTRACTORS:
        found = (extract_letters if gold in LETTERS else extract_all)(text)
        answers = {each.value: number for each, number in found.items()}
    else:
        answers = {by: None if one.parts.is_open else scorer_of(by).find(text)}
    answer = answers[by]
    if one.finish_reason is FinishReason.error:
        return answers, Verdict.cut_off
    if answer is not None and (answer == gold if by in EXTRACTORS else scorer_of(by).is_right(answer, gold)):
        return answers, Verdict.correct
    if was_cut_off(answers, one, by):
        return answers, Verdict.cut_off
    return answers, Verdict.no_answer if answer is None else Verdict.wrong


def was_cut_off(answers: dict[str, str | None], one: ModelText, by: str) -> bool:
    """Whether a text ended before its answer: it may contain numbers, but none is marked as the answer."""
    marked_answer = answers[Extractor.strict.value if by == Extractor.flexible else by]
    return one.parts.is_open or (one.finish_reason is not FinishReason.stop and marked_answer is None)


def rules_between(task: str, versions: tuple[str, str]) -> str:
    """Say what changed between two versions of a task's rules; empty if that is not known."""
    if not all(version.isdecimal() for version in versions):
        return ""
    old, new = sorted(map(int, versions))
    changed = (f"since version {at}, {what}" for (of, at), what in NEW_RULES.items() if of == task and old < at <= new)
    return "; ".join(changed)
