"""A line of samples.jsonl: one completion, several branches, or several calls."""

from __future__ import annotations

import json

from runner.core.result import BranchText, Call, FinishReason, Sample, Verdict

ONE = Sample(3, "sha", 7, "so 4", [1, 2], FinishReason.stop, 0.5, question="2+2?", gold="4", verdict=Verdict.correct)


def test_one_completion_stands_in_the_line_itself() -> None:
    line = ONE.to_json()
    assert "calls" not in json.loads(line)
    assert "branches" not in json.loads(line)
    assert Sample.from_json(line) == ONE
    assert ONE.said == [BranchText("so 4", [1, 2], FinishReason.stop)]


def test_a_question_may_take_several_calls() -> None:
    calls = [
        Call("solver", "a", 10, "2+2=4", [5, 6, 7], FinishReason.stop, 0.25),
        Call("checker", "b", 30, "yes", [8], FinishReason.length, 0.125),
    ]
    sample = Sample(0, "a", 40, "4", [], FinishReason.stop, 0.375, verdict=Verdict.correct, calls=calls)
    again = Sample.from_json(sample.to_json())
    assert again == sample
    assert again.calls is not None
    assert [call.who for call in again.calls] == ["solver", "checker"]
    assert [said.finish_reason for said in again.said] == [FinishReason.stop, FinishReason.length]
    assert sum(len(said.token_ids) for said in again.said) == 4
