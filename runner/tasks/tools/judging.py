"""Judges answers of task=tools by comparing their tool calls with the expected calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from runner.tasks.tools.cases import Case
from runner.tasks.tools.matching import has_expected_tool_calls
from runner_base import Answer, FinishReason, Sample, Verdict
from runner_base.notes import Note, note
from runner_base.tool_outcomes import RIGHT, ToolOutcome
from runner_engine import tool_calls

CALLS, REASON = "calls", "reason"  # what was found in an answer, in its sample
RAW = "<|channel|>"
VERDICTS = {ToolOutcome.cut_off: Verdict.cut_off, ToolOutcome.no_answer: Verdict.no_answer}


@dataclass(frozen=True)
class PlacedCase:
    """A tool-calling question, its context length and its number of distractor functions."""

    case: Case
    length: int  # 0: it is not filled
    further: int
    cluster: str  # the family of questions that it belongs to


@dataclass(frozen=True)
class CallJudgement:
    """Tool calls parsed from an answer, and the judgement: the outcome, and the reason for a failure."""

    outcome: ToolOutcome
    calls: tuple[tool_calls.ToolCall, ...] = ()
    reason: str | None = None


class Judge:
    """Adds the verdict to samples of task=tools, and the reason why an answer failed."""

    def __init__(
        self, placed_cases: Mapping[int, PlacedCase], call_format: tool_calls.ToolCallFormat
    ) -> None:
        self.placed, self.form = placed_cases, call_format

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        place = self.placed[sample.index]
        found = judge_tool_calls(sample.answer, place.case, self.form)
        verdict = Verdict.correct if found.outcome in RIGHT else VERDICTS.get(found.outcome, Verdict.wrong)
        extracted = {CALLS: calls_to_text(found.calls), REASON: found.reason}
        return replace(
            sample,
            answer=replace(sample.answer, extracted=extracted, verdict=verdict),
            question=place.case.question,
            gold=place.case.gold,
            cluster=place.cluster,
            tool_category=place.case.category,
            tool_length=place.length,
            tool_outcome=found.outcome.value,
            tool_function=place.case.main_function_name,
        )

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a stored sample does not belong to this job. None if the sample is valid."""
        if not self._has_same_question(sample):
            return note("other_question", index=sample.index)
        found = self(sample)
        if sample.tool_function is None:  # of an earlier version, which recorded no families
            found = replace(found, cluster=sample.cluster, tool_function=None)
        return None if found == sample else note("judged_differently")

    def adopt_sample(self, sample: Sample) -> Sample | None:
        """Convert another job's sample to a sample of this job. Returns None if it answers another
        question.
        """
        # as another form reads it: this job would have another text
        is_raw = RAW in sample.answer.text
        return (
            self(sample) if self._has_same_question(sample) and not is_raw and not self.form.IS_RAW else None
        )

    def _has_same_question(self, sample: Sample) -> bool:
        place = self.placed[sample.index]
        same = (place.case.question, place.case.gold, place.length)
        return (sample.question, sample.gold, sample.tool_length) == same


def judge_tool_calls(answer: Answer, case: Case, call_format: tool_calls.ToolCallFormat) -> CallJudgement:
    if answer.finish_reason is FinishReason.error:
        return CallJudgement(ToolOutcome.no_answer, reason="it ended in an error")
    is_whole = answer.finish_reason is FinishReason.stop or answer.is_stuck_in_loop
    if answer.parts.is_open:
        return CallJudgement(
            ToolOutcome.no_answer if is_whole else ToolOutcome.cut_off, reason="it ended while thinking"
        )
    try:
        reading = call_format.parse_answer(answer.parts.answer, case.functions)
    except tool_calls.MalformedToolCall as error:
        outcome = ToolOutcome.malformed if is_whole else ToolOutcome.cut_off
        if not case.wanted and case.is_of_bfcl:
            outcome = ToolOutcome.nothing_called  # as BFCL counts what is no call
        return CallJudgement(outcome, reason=str(error))
    calls, outcome = reading.calls, _classify_tool_calls(reading.calls, case)
    if not is_whole and outcome is not ToolOutcome.right:
        outcome = ToolOutcome.cut_off
    if outcome is ToolOutcome.not_called and not reading.text.strip():
        outcome = ToolOutcome.no_answer
    return CallJudgement(outcome, calls)


def _classify_tool_calls(calls: tuple[tool_calls.ToolCall, ...], case: Case) -> ToolOutcome:
    if not case.wanted:
        return ToolOutcome.called_without_need if calls else ToolOutcome.nothing_called
    if not calls:
        return ToolOutcome.not_called
    if has_expected_tool_calls(calls, case.wanted, case.functions):
        return ToolOutcome.right
    called, wanted = Counter(call.name for call in calls), Counter(name for name, _ in case.wanted)
    if called == wanted:
        return ToolOutcome.wrong_arguments
    return ToolOutcome.wrong_count if called.keys() == wanted.keys() else ToolOutcome.wrong_tool


def calls_to_text(calls: tuple[tool_calls.ToolCall, ...]) -> str | None:
    return "; ".join(map(str, calls)) or None
