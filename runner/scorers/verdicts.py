"""Judges whether an answer is right: a number, the letter of a choice, or an answer that a scorer
extracts.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.scorers.answer_reading import extract_answers
from runner_base import Answer, FinishReason, SplitText, Verdict

WHY_NOT = "why_not"


@dataclass(frozen=True)
class Judgement:
    """The judgement of one answer: extracted answers and verdicts, by name of the extractor or scorer."""

    found: dict[str, str | None]  # the number, the letter, or what the scorer finds
    verdicts: dict[str, Verdict]
    # whether the text ended before its answer: it may contain numbers, but none is marked
    cut_off: dict[str, bool]
    parts: SplitText
    why_not: str = ""  # why the answer could not be compared with the right one, and so is wrong

    @property
    def failure_reason_entry(self) -> dict[str, str | None]:
        return {WHY_NOT: self.why_not} if self.why_not else {}


def judge_answer(answer: Answer, gold: str, scorer: str | None = None) -> Judgement:
    """Judge an answer with all extractors, or with a scorer. An answer truncated before its result is
    not judged as wrong, unless it is stuck in a loop.

    Only the text after the thinking is read; a text that ended during the thinking is truncated.
    """
    parts = answer.parts
    is_whole = answer.finish_reason is FinishReason.stop
    reading = extract_answers(parts, gold, is_whole, scorer)
    is_stuck = answer.is_stuck_in_loop
    is_ended = is_whole or is_stuck
    cut_off = {
        way: (not is_ended and not is_marked) or (parts.is_open and not is_stuck)
        for way, is_marked in reading.marked.items()
    }

    def decide_answer_verdict(source: str, found: str | None) -> Verdict:
        if answer.finish_reason is FinishReason.error:
            return Verdict.cut_off
        # in an answer that was cut off `flexible` may take a step; without thinking that counts, as
        # for lm-eval
        may_be_right = not (cut_off[source] and parts.has_thinking)
        if may_be_right and found is not None and reading.is_right(found, gold):
            return Verdict.correct
        if cut_off[source]:
            return Verdict.cut_off
        return Verdict.no_answer if found is None else Verdict.wrong

    verdicts = {way: decide_answer_verdict(way, found) for way, found in reading.found.items()}
    return Judgement(reading.found, verdicts, cut_off, parts, reading.explain_comparison_failure(gold))
