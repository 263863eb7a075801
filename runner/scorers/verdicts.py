"""Judges whether an answer is right: a number, the letter of a choice, or what a scorer finds."""

from __future__ import annotations

from dataclasses import dataclass

from runner.scorers.reading import read
from runner_base import Answer, FinishReason, Parts, Verdict

WHY_NOT = "why_not"


@dataclass(frozen=True)
class Judgement:
    """One answer, judged once by every extractor, or by one scorer alone: by name, what each
    says."""

    found: dict[str, str | None]  # the number, the letter, or what the scorer finds
    verdicts: dict[str, Verdict]
    # whether the text ended before its answer: it may contain numbers, but none is marked
    cut_off: dict[str, bool]
    parts: Parts
    why_not: str = ""  # why the answer could not be compared with the right one, and so is wrong

    @property
    def reasons(self) -> dict[str, str | None]:
        """The reason, as it stands beside what was found in a sample; empty if there is none."""
        return {WHY_NOT: self.why_not} if self.why_not else {}


def judge(answer: Answer, gold: str, scorer: str | None = None) -> Judgement:
    """Judge an answer: one that is cut off is not a wrong answer.

    Only what follows the thinking is read; a text that ended while the model was thinking is cut
    off.
    """
    parts = answer.parts
    is_whole = answer.finish_reason is FinishReason.stop
    reading = read(parts, gold, is_whole, scorer)
    cut_off = {way: parts.is_open or not (is_whole or is_marked) for way, is_marked in reading.marked.items()}

    def verdict(way: str, found: str | None) -> Verdict:
        if answer.finish_reason is FinishReason.error:
            return Verdict.cut_off
        # in an answer that was cut off `flexible` may take a step; without thinking that counts, as
        # for lm-eval
        may_be_right = not (cut_off[way] and parts.has_thinking)
        if may_be_right and found is not None and reading.is_right(found, gold):
            return Verdict.correct
        if cut_off[way]:
            return Verdict.cut_off
        return Verdict.no_answer if found is None else Verdict.wrong

    verdicts = {way: verdict(way, found) for way, found in reading.found.items()}
    return Judgement(reading.found, verdicts, cut_off, parts, reading.why_not(gold))
