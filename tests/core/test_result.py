"""A line of samples.jsonl: one completion, several branches, or several calls; and repeats.jsonl,
which the comparison reads.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from raising import raises

from runner_base.errors import OutputError
from runner_base.repeats import RepeatLog, read_repeats
from runner_base.result import Answer, Call, FinishReason, Sample, Verdict
from runner_base.signed_jsonl import dump_signed_line

ONE = Sample(
    Answer("so 4", [1, 2], FinishReason.stop, verdict=Verdict.correct), "sha", 7, 0.5, 3, "2+2?", "4"
)
ANSWER = '"text": "b", "token_ids": [1], "finish_reason": "stop", "new_tokens": 3, "thinking": "t", "in_thinking": true'
CALL = '''"prompt_sha256": "c", "prompt_tokens": 3, "text": "x", "token_ids": [1], "finish_reason": "error", "seconds": 0.2,
    "what": "draft", "new_tokens": 7, "error": "boom", "by": "me"'''
EVERY_KEY = f"""{{"index": 3, "prompt_sha256": "sha", "prompt_tokens": 7, "text": "so", "token_ids": [1],
    "finish_reason": "error", "seconds": 0.5, "error": "boom", "permanent": true, "question": "q", "gold": "4",
    "cluster": "c", "extracted": {{"strict": null}}, "verdict": "cut_off", "likelihood": {{"unit": 1, "nats": -2.0,
    "tokens": 3, "bytes": 4, "characters": 5, "rank_1": 6}}, "branches": [{{{ANSWER}}}],
    "choices": [{{{ANSWER}, "extracted": {{"strict": "4"}}, "verdict": "wrong"}}],
    "calls": [{{"who": "one", {CALL}, "calls": [{{"who": "two", {CALL}}}], "thinking": "", "in_thinking": true}}],
    "new_tokens": 0, "by": "me", "cost_usd": 0.5, "reused_from": "job", "left_out": true, "thinking": "",
    "in_thinking": true}}"""


def test_one_completion_stands_in_the_line_itself() -> None:
    line = ONE.to_json()
    assert "calls" not in json.loads(line)
    assert "branches" not in json.loads(line)
    assert Sample.from_json(line) == ONE
    assert ONE.answers == [ONE.answer]


def test_a_question_may_take_several_calls() -> None:
    calls = [
        Call(Answer("2+2=4", [5, 6, 7], FinishReason.stop), "a", 10, 0.25, "solver"),
        Call(Answer("yes", [8], FinishReason.length), "b", 30, 0.125, "checker"),
    ]
    sample = Sample(
        Answer("4", [], FinishReason.stop, verdict=Verdict.correct), "a", 40, 0.375, 0, calls=calls
    )
    again = Sample.from_json(sample.to_json())
    assert again == sample
    assert again.calls is not None
    assert [call.who for call in again.calls] == ["solver", "checker"]
    assert [call.answer.num_tokens for call in again.calls] == [3, 1]
    assert [answer.text for answer in again.answers] == ["4"], "the answer is one"


def test_tokens_may_be_counted_and_not_known() -> None:
    sample = replace(ONE, answer=Answer("so 4", [], FinishReason.stop, new_tokens=7), by="gpt", cost_usd=0.25)
    assert Sample.from_json(sample.to_json()) == sample
    assert sample.answers[0].num_tokens == 7
    assert '"by": "gpt"' in sample.to_json()
    assert "null" not in ONE.to_json()


def test_a_line_has_its_keys_where_they_have_always_been() -> None:
    line = dump_signed_line(json.loads(EVERY_KEY))
    assert Sample.from_json(line).to_json() == line


def test_repeats_are_read_as_they_were_written(tmp_path: Path) -> None:
    log = RepeatLog(tmp_path)
    for number in (1, 2):
        log.add_repeat(number, {"load_s": 0.5 * number, "ttft_s/batch_1_prompt_4": 0.25})
    lines = log.path.read_text().splitlines()
    assert lines[2].startswith('{"measure": "load_s", "repeat": 2, "value": 1.0, "checksum": "')
    assert read_repeats(log.path) == {"load_s": [0.5, 1.0], "ttft_s/batch_1_prompt_4": [0.25, 0.25]}


def test_what_was_not_measured_in_every_repeat_is_left_out(tmp_path: Path) -> None:
    log = RepeatLog(tmp_path)
    log.add_repeat(1, {"load_s": 1.0, "ttft_s/batch_64_prompt_4": 9.0})
    log.add_repeat(2, {"load_s": 2.0})  # the cell ran out of memory
    assert read_repeats(log.path) == {"load_s": [1.0, 2.0]}


def test_a_job_that_begins_again_measures_again(tmp_path: Path) -> None:
    RepeatLog(tmp_path).add_repeat(1, {"load_s": 1.0})
    assert read_repeats(RepeatLog(tmp_path).path) == {}


@pytest.mark.parametrize("torn", ['{"measure": "load_s", "rep', '{"repeat": 1, "value": 2}', "[1]"])
def test_a_line_that_is_no_repeat_is_an_error(tmp_path: Path, torn: str) -> None:
    log = RepeatLog(tmp_path)
    log.path.write_text(torn)
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_repeats(log.path)


def test_a_folder_that_is_gone_is_one_message(tmp_path: Path) -> None:
    with raises(OutputError, "refused"):
        RepeatLog(tmp_path / "gone")
