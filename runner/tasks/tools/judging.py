"""Judges the answers of task=tools: what was called, how far that is what was wanted, and where it
failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from runner.tasks.tools.cases import Case
from runner.tasks.tools.matching import all_match
from runner_base import Answer, FinishReason, Sample, Verdict
from runner_base.notes import Note, note
from runner_base.tool_outcomes import RIGHT, ToolOutcome
from runner_engine import tool_calls

CALLS, REASON = "calls", "reason"  # what was found in an answer, in its sample
RAW = "<|channel|>"
VERDICTS = {ToolOutcome.cut_off: Verdict.cut_off, ToolOutcome.no_answer: Verdict.no_answer}


@dataclass(frozen=True)
class Placed:
    """A case as it is asked: the length that its context is filled up to, and how many functions do
    that."""

    case: Case
    length: int  # 0: it is not filled
    further: int
    cluster: str  # the family of questions that it belongs to


@dataclass(frozen=True)
class Judged:
    """What an answer came to."""

    outcome: ToolOutcome
    calls: tuple[tool_calls.ToolCall, ...] = ()
    reason: str | None = None


class Judge:
    """Gives samples their verdicts, and says at which step an answer failed."""

    def __init__(self, placed: Mapping[int, Placed], form: tool_calls.Form) -> None:
        self.placed, self.form = placed, form

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        """Return a new sample with its question and its verdict."""
        place = self.placed[sample.index]
        found = judged(sample.answer, place.case, self.form)
        verdict = Verdict.correct if found.outcome in RIGHT else VERDICTS.get(found.outcome, Verdict.wrong)
        extracted = {CALLS: shown(found.calls), REASON: found.reason}
        return replace(
            sample,
            answer=replace(sample.answer, extracted=extracted, verdict=verdict),
            question=place.case.question,
            gold=place.case.gold,
            cluster=place.cluster,
            tool_category=place.case.category,
            tool_length=place.length,
            tool_outcome=found.outcome.value,
            tool_function=place.case.function,
        )

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a sample does not belong to this job; None if it does."""
        if not self._asks_the_same(sample):
            return note("other_question", index=sample.index)
        found = self(sample)
        if sample.tool_function is None:  # of an earlier version, which recorded no families
            found = replace(found, cluster=sample.cluster, tool_function=None)
        return None if found == sample else note("judged_differently")

    def adopted(self, sample: Sample) -> Sample | None:
        """Return another job's sample as one of this job; None if it answers another question."""
        # as another form reads it: this job would have another text
        is_raw = RAW in sample.answer.text
        return self(sample) if self._asks_the_same(sample) and not is_raw and not self.form.IS_RAW else None

    def _asks_the_same(self, sample: Sample) -> bool:
        place = self.placed[sample.index]
        same = (place.case.question, place.case.gold, place.length)
        return (sample.question, sample.gold, sample.tool_length) == same


def judged(answer: Answer, case: Case, form: tool_calls.Form) -> Judged:
    """Return what an answer calls, and what came of it."""
    if answer.finish_reason is FinishReason.error:
        return Judged(ToolOutcome.no_answer, reason="it ended in an error")
    is_whole = answer.finish_reason is FinishReason.stop
    if answer.parts.is_open:
        return Judged(
            ToolOutcome.no_answer if is_whole else ToolOutcome.cut_off, reason="it ended while thinking"
        )
    try:
        reading = form.read(answer.parts.answer, case.functions)
    except tool_calls.Malformed as error:
        outcome = ToolOutcome.malformed if is_whole else ToolOutcome.cut_off
        if not case.wanted and case.is_of_bfcl:
            outcome = ToolOutcome.nothing_called  # as BFCL counts what is no call
        return Judged(outcome, reason=str(error))
    calls, outcome = reading.calls, _outcome(reading.calls, case)
    if not is_whole and outcome is not ToolOutcome.right:
        outcome = ToolOutcome.cut_off
    if outcome is ToolOutcome.not_called and not reading.text.strip():
        outcome = ToolOutcome.no_answer
    return Judged(outcome, calls)


def _outcome(calls: tuple[tool_calls.ToolCall, ...], case: Case) -> ToolOutcome:
    """Compare whole calls with the wanted ones."""
    if not case.wanted:
        return ToolOutcome.called_without_need if calls else ToolOutcome.nothing_called
    if not calls:
        return ToolOutcome.not_called
    if all_match(calls, case.wanted, case.functions):
        return ToolOutcome.right
    called, wanted = Counter(call.name for call in calls), Counter(name for name, _ in case.wanted)
    if called == wanted:
        return ToolOutcome.wrong_arguments
    return ToolOutcome.wrong_count if called.keys() == wanted.keys() else ToolOutcome.wrong_tool


def shown(calls: tuple[tool_calls.ToolCall, ...]) -> str | None:
    """Return calls as a record shows them."""
    return "; ".join(map(str, calls)) or None
