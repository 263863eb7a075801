"""task=instructions from the prompt to the metrics, with answers of which the truth is known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from following import follow, following
from scripted import Scripted
from tasking import samples_of, work

from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.options.instructions import task as instructions
from runner.options.instructions.judging import InstructionJudge, check_response
from runner.options.instructions.keys import ClusterKey, InstructionsConfig
from runner.options.instructions.kinds import Instruction, InstructionPrompt
from runner.options.instructions.render.titles import BY_KIND, BY_LEVEL
from runner.records.jobs import Job, Recorder
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_compare.statistics import accuracy_interval
from runner_engine.sessions.base import Message
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]


@pytest.fixture
def job(make_config: Make) -> Make:
    def make(**keys: Any) -> RunnerConfig:
        task = InstructionsConfig(**({"limit": 30} | keys))
        return make_config(model=StubConfig(), generation=GenerationConfig(max_new_tokens=64), task=task)

    return make


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened = Recorder(Job("instructions-test", folder))
    yield opened
    opened.close()


def test_answers_that_follow_all_instructions_are_right(job: Make, recorder: Recorder) -> None:
    prompts = instructions.prepare(job()).prompts
    result = work(instructions, job(), recorder, Scripted(following(prompts)))
    shares = (
        "accuracy",
        "prompt_loose_accuracy",
        "instruction_strict_accuracy",
        "instruction_loose_accuracy",
    )
    assert [result.metrics[share] for share in shares] == [1, 1, 1, 1]
    assert (result.metrics["n"], result.metrics["instructions"]) == (30, 60)
    assert [row["prompts"] for row in result.tables[BY_LEVEL]] == [10, 10, 10]
    assert sum(row["n"] for row in result.tables[BY_KIND]) == 60
    assert {sample.answer.verdict for sample in samples_of(recorder)} == {Verdict.correct}


def test_metrics_are_those_of_the_verdicts(job: Make, recorder: Recorder) -> None:
    """Some answers are blank, and some right ones have a line before them, which only the loose
    verdict forgives."""
    config = job(limit=60)
    prompts = instructions.prepare(config).prompts

    def answer(request: Any) -> tuple[str, FinishReason]:
        number = int(request.id)
        text = follow(prompts[number])
        return (
            "\n" if number % 5 == 0 else f"Here, you have it:\n{text}" if number % 5 == 1 else text
        ), FinishReason.stop

    result = work(instructions, config, recorder, Scripted(answer))
    checked = [
        check_response(answer(sample_request(number))[0], prompt) for number, prompt in enumerate(prompts)
    ]
    strict = [all(each.strict) for each in checked]
    loose = [all(each.loose) for each in checked]
    assert 0 < sum(strict) < sum(loose) == 48
    metrics = result.metrics
    assert metrics["accuracy"] == sum(strict) / 60
    assert metrics["correct"] == sum(strict)
    assert metrics["no_answer"] == 12
    assert metrics["prompt_loose_accuracy"] == 48 / 60
    low, high = accuracy_interval([float(each) for each in loose], [None] * 60)
    assert (metrics["prompt_loose_accuracy_low"], metrics["prompt_loose_accuracy_high"]) == (low, high)
    each_strict = [verdict for each in checked for verdict in each.strict]
    assert metrics["instruction_strict_accuracy"] == pytest.approx(sum(each_strict) / 120)
    of_prompts = [str(number) for number, each in enumerate(checked) for _ in each.strict]
    ends = accuracy_interval([float(each) for each in each_strict], of_prompts)
    assert (metrics["instruction_strict_accuracy_low"], metrics["instruction_strict_accuracy_high"]) == ends
    by_kind = {row["instruction"]: row for row in result.tables[BY_KIND]}
    counted = Counter(
        (instruction.kind, verdict)
        for prompt, each in zip(prompts, checked, strict=True)
        for instruction, verdict in zip(prompt.instructions, each.strict, strict=True)
    )
    for kind, row in by_kind.items():
        right, wrong = counted[kind, True], counted[kind, False]
        assert (row["n"], row["strict_percent"]) == (right + wrong, round(100 * right / (right + wrong), 1))


def sample_request(number: int) -> Any:
    return type("Request", (), {"id": number})


NO_COMMA = InstructionPrompt("1", "Go.", (Instruction("punctuation:no_comma", {}),))
VERDICTS = [
    ("Yes.", FinishReason.stop, Verdict.correct, None),
    ("Yes, no.", FinishReason.stop, Verdict.wrong, "punctuation:no_comma"),
    ("Yes, no", FinishReason.length, Verdict.cut_off, "punctuation:no_comma"),
    ("Yes", FinishReason.length, Verdict.correct, None),  # as lm-eval counts it
    (" \n", FinishReason.stop, Verdict.no_answer, "punctuation:no_comma"),
    ("<think>Well, hm.</think>Yes.", FinishReason.stop, Verdict.correct, None),
    ("<think>Well", FinishReason.length, Verdict.cut_off, "punctuation:no_comma"),
    ("Yes, no. " * 30, FinishReason.length, Verdict.wrong, "punctuation:no_comma"),
    ("<think>" + "Well, hm. " * 30, FinishReason.length, Verdict.no_answer, "punctuation:no_comma"),
]


@pytest.mark.parametrize(("text", "reason", "verdict", "failed"), VERDICTS)
def test_verdicts(job: Make, recorder: Recorder, tmp_path: Path, text: str, reason: FinishReason, verdict: Verdict, failed: str | None) -> None:  # fmt: skip
    row = {"key": 1, "prompt": "Go.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    work(instructions, job(data=str(tmp_path / "a.jsonl")), recorder, Scripted({0: (text, reason)}))
    (sample,) = samples_of(recorder)
    assert sample.answer.verdict is verdict
    assert sample.answer.extracted == {"failed": failed, "failed_loose": failed}
    assert (sample.question, sample.gold, sample.cluster) == ("Go.", "punctuation:no_comma", None)


@pytest.mark.parametrize(("num_words", "verdict"), [(50, Verdict.correct), (900, Verdict.cut_off)])
def test_a_loop_that_would_get_long_enough_is_undecided(num_words: int, verdict: Verdict) -> None:
    arguments = {"relation": "at least", "num_words": num_words}
    long = Instruction.from_arguments("length_constraints:number_words", arguments)
    judge = InstructionJudge({0: InstructionPrompt("1", "Go.", (long,))}, ClusterKey.prompt)
    answer = Answer.from_text("We go on and on.\n" * 30, [1], FinishReason.length)
    assert judge(Sample(answer, "", 0, 0.0, 0)).answer.verdict is verdict


def test_the_loose_verdict_forgives_a_first_line_a_last_line_and_asterisks() -> None:
    assert check_response("Sure, here:\nyes\nBye, now!", NO_COMMA).loose == (True,)
    assert check_response("Sure, here:\nyes, no\nBye, now!", NO_COMMA).loose == (False,)
    end = InstructionPrompt("", "", (Instruction("startend:end_checker", {"end_phrase": "the end"}),))
    assert (check_response("*the end*", end).strict, check_response("*the end*", end).loose) == (
        (False,),
        (True,),
    )


def test_samples_are_read_again_and_other_answers_are_refused(job: Make, recorder: Recorder) -> None:
    prompts = instructions.prepare(job()).prompts
    work(instructions, job(), recorder, Scripted(following(prompts, wrong=frozenset({3}))))
    kept = samples_of(recorder)
    judge = InstructionJudge(dict(enumerate(prompts)), ClusterKey.prompt)
    for sample in kept:
        read = Sample.from_json(sample.to_json())
        assert read == sample
        assert judge.rejection_reason(read) is None
    changed = replace(kept[3], answer=replace(kept[3].answer, verdict=Verdict.correct))
    assert getattr(judge.rejection_reason(changed), "code", "") == "judged_differently"
    other = replace(kept[3], gold="punctuation:no_comma")
    assert getattr(judge.rejection_reason(other), "code", "") == "other_question"
    assert judge.adopt_sample(other) is None
    unjudged = replace(kept[0], cluster="x", answer=replace(kept[0].answer, verdict=None, extracted=None))
    assert judge.adopt_sample(unjudged) == kept[0]


def test_clusters_are_prompts_or_the_first_kinds(job: Make, recorder: Recorder) -> None:
    prompts = instructions.prepare(job()).prompts
    result = work(instructions, job(cluster=ClusterKey.kind), recorder, Scripted(following(prompts)))
    kinds = [prompt.instructions[0].kind for prompt in prompts]
    assert [sample.cluster for sample in samples_of(recorder)] == kinds
    assert result.metrics["families"] == len({*kinds})
    ours, theirs = (instructions.prepare(job(cluster=key)).hashes for key in ClusterKey)
    assert ours["data"] == theirs["data"]
    assert ours != theirs


def test_prompts_are_chat_messages_with_a_system_message(job: Make) -> None:
    config = job(system="Be brief.", repeat_index=1)
    inputs = instructions.prepare(config)
    first = instructions.build_requests(inputs.task, inputs.prompts)[0]
    assert first.prompt == (Message("system", "Be brief."), Message("user", inputs.prompts[0].prompt))
    assert first.random_id == "0, repeat 1"
