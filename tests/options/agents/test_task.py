from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import warm_process
from job_engines import open_engine
from tasking import work
from teams import Starts, Team, calls_in, right, team

from runner.config.root import RunnerConfig
from runner.options.agents import task as agents
from runner.options.agents.keys import AgentsConfig, DecisionMethod, PromptStyle, Role, Topology
from runner_base.errors import ConfigError, RunRecordError
from runner_base.result import CALLS, Verdict
from runner_engine.sessions.base import Capability
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig, PeftConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]


def test_questions_are_judged_and_tokens_counted(make_config: Make, again: Starts) -> None:
    config = make_config(task=team(num_rounds=2))
    say = right(config)
    engine = Team(
        lambda key, prompt: (
            {"test/1/decision": "#### 99999", "test/2/decision": "nothing"}.get(key) or say(key, prompt)
        )
    )
    recorder = again()
    result = work(agents, config, recorder, engine)
    assert [recorder.done[at].answer.verdict for at in range(3)] == [
        Verdict.correct,
        Verdict.wrong,
        Verdict.no_answer,
    ]
    metrics = result.metrics
    assert (metrics["accuracy"], metrics["n"], metrics["calls"], metrics["code_failed"]) == (1 / 3, 3, 27, 0)
    assert (metrics["prompt_tokens"], metrics["new_tokens"]) == (2700, 81)
    assert (metrics["prompt_tokens_per_question"], metrics["new_tokens_per_question"]) == (900, 27)
    assert (metrics["spatial_edges_before"], metrics["temporal_edges_after"]) == (0, 16)
    assert metrics["load_s"] == 0.5
    rows = {row["tokens of"]: row for row in result.rows}
    assert (rows["Inspector"]["calls"], rows["decision"]["calls"]) == (24, 3)
    edges = [row for name, row in rows.items() if name.startswith("edge ")]
    assert len(edges) == 16 + 4, "each of the round before, and each to the decision"
    assert all(row["calls"] == 3 and 0 < row["prompt tokens"] < 300 for row in edges)
    sample = recorder.done[0]
    assert (sample.prompt_tokens, sample.answer.new_tokens, sample.calls) == (900, 27, None), (
        "calls stand in calls.jsonl, once"
    )
    assert Counter(line["who"] for line in calls_in(recorder)) == {"Inspector": 24, "decision": 3}


def test_a_vote_needs_no_further_call(make_config: Make, again: Starts) -> None:
    config = make_config(task=team(limit=1, decision_method=DecisionMethod.majority_vote))
    engine = Team(lambda key, _: f"#### {dict(zip('0123', '5655', strict=True))[key[-1]]}")
    recorder = again()
    assert work(agents, config, recorder, engine).metrics["calls"] == 4
    sample = recorder.done[0]
    assert (sample.answer.extracted, sample.answer.text) == (
        {"team": "5"},
        "The agents' answers: 5, 6, 5, 5.",
    )


def test_written_programs_are_run(make_config: Make, again: Starts) -> None:
    task = team(limit=2, mode=Topology.chain, agents=2, roles=[Role.programming_expert, Role.inspector])
    config = make_config(task=task)
    seen: list[str] = []

    def say(key: str, prompt: str) -> str:
        seen.append(prompt)
        if key == "test/0/0/0":
            return "```python\nanswer = 6 * 7\n```"
        return "no program at all" if key == "test/1/0/0" else "#### 1"

    recorder = again()
    result = work(agents, config, recorder, Team(say))
    assert result.metrics["code_failed"] == 1
    assert any("gives 42" in prompt for prompt in seen), "the inspector is told what it came to"
    assert any("no program at all" in prompt for prompt in seen), "what failed is seen all the same"
    outcomes = {line["id"]: line["code"] for line in calls_in(recorder) if "code" in line}
    assert (outcomes["test/0/0/0"]["answer"], outcomes["test/1/0/0"]["status"]) == ("42", "code_failed")
    assert "empty folder" in result.facts["sandbox"]


@pytest.mark.thorough
@pytest.mark.slow
def test_the_embedded_model_knows_the_roles_with_its_adapter_alone(make_config: Make, again: Starts) -> None:
    """The command of the pages works, and one that cannot says what it lacks: with the real model
    and real programs."""
    found = []
    for adapter in (PeftConfig(path="embedded_team"), LoraConfig()):
        config = make_config(
            model=LocalModelConfig(name="embedded", device="cpu"),
            lora=adapter,
            generation=GenerationConfig(max_new_tokens=128),
            task=AgentsConfig(limit=3, domain=PromptStyle.brief),
        )
        recorder = again()
        engine = open_engine(config)
        with closing(engine):
            found.append(work(agents, config, recorder, engine))
        for name in (CALLS, "samples.jsonl"):
            (recorder.folder / name).unlink()
    taught, base = found
    assert (taught.metrics["code_failed"], taught.metrics["accuracy"]) == (0, 1)
    assert not [note for note in taught.notes if "programs failed" in note]
    assert base.metrics["code_failed"] == 3
    (failures,) = [note for note in base.notes if "programs failed" in note]
    assert failures.startswith("3 of 3 programs failed. ")
    assert "(3): it assigns nothing to `answer`. " in failures
    assert failures.endswith(": lora=embedded_team")


def test_programs_of_another_model_that_mostly_fail_are_named(make_config: Make, again: Starts) -> None:
    config = make_config(task=team(roles=[Role.programming_expert], mode=Topology.chain, agents=3))
    said = {"0": "answer = 1", "1": "answer = 1 / 0", "2": "answer = None"}
    recorder = again()
    result = work(agents, config, recorder, Team(lambda key, _: said.get(key[-1], "#### 1")))
    assert (
        "6 of 9 programs failed. Most frequent reason (3): ZeroDivisionError: division by zero"
        in result.notes
    )
    for name in (CALLS, "samples.jsonl"):
        (recorder.folder / name).unlink()
    lengthy = make_config(
        model=LocalModelConfig(name="embedded"), task=team(domain=PromptStyle.gsm8k, roles=None, limit=1)
    )
    notes = work(agents, lengthy, again(), Team(lambda *_: "no program")).notes
    assert any(note.endswith(": task.domain=brief lora=embedded_team") for note in notes), notes


def test_an_error_is_no_answer_and_asked_again(make_config: Make, again: Starts) -> None:
    config = make_config(task=team())
    say, trouble = right(config), {"test/1/0/2": "error: gone"}
    first = work(agents, config, again(), Team(lambda key, prompt: trouble.get(key) or say(key, prompt)))
    assert first.metrics["errors"] == 1
    assert (
        "1 of 3 prompts ended in an error. First error (prompt 1): Inspector, call test/1/0/2: error: gone"
        in str(first.found_problems_message)
    )
    engine = Team(say)
    second = work(agents, config, again(), engine)
    assert second.problems == []
    assert second.metrics["accuracy"] == 1
    assert "test/1/0/2" in engine.asked
    assert not [key for key in engine.asked if not key.startswith("test/1/")], "the others are kept"
    assert "1 failed agent calls of an earlier run were repeated" in second.notes
    nothing = Team(say)
    assert work(agents, config, again(), nothing).metrics["accuracy"] == 1
    assert nothing.loads == 0, "all is on disk"


def test_what_can_have_no_answer_is_not_asked_again(make_config: Make, again: Starts) -> None:
    config = make_config(task=team())
    say = right(config)
    hopeless = Team(lambda key, prompt: "error for good" if key == "test/1/0/2" else say(key, prompt))
    work(agents, config, again(), hopeless)
    engine = Team(say)
    result = work(agents, config, again(), engine)
    assert engine.asked == []
    assert "cannot be answered" in str(result.found_problems_message)
    config.rerun = "failed"
    assert work(agents, config, again(), Team(say)).problems == []


def test_samples_that_are_not_what_their_calls_say_are_refused(make_config: Make, again: Starts) -> None:
    config = make_config(task=team())
    say = right(config)
    recorder = again()
    work(agents, config, recorder, Team(say))
    (recorder.folder / CALLS).unlink()
    with pytest.raises(
        RunRecordError, match="samples.jsonl, line .: the sample does not match .* in calls.jsonl"
    ):
        work(agents, config, again(), Team(lambda *_: "#### 1"))
    fewer = make_config(task=team(limit=2))
    with pytest.raises(
        RunRecordError, match="line 3: sample 2 does not exist in this job, which has 2 questions"
    ):
        work(agents, fewer, again(), Team(say))


def test_an_engine_without_chat_is_refused_before_it_loads(make_config: Make, again: Starts) -> None:
    engine = Team(lambda *_: "")
    engine.capabilities = frozenset({Capability.deltas})
    with pytest.raises(
        ConfigError, match="^task=agents needs chat prompts, which this engine does not support"
    ):
        work(agents, make_config(task=team()), again(), engine)
    assert engine.loads == 0


@pytest.mark.thorough
@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_discussion(tmp_path: Path, runner: Callable[..., Any]) -> None:
    """A real process and a real SIGKILL: the next start asks for the calls that are not on disk,
    and for no other."""
    command = ["model=stub", "task=agents", "task.mode=chain", "task.limit=1", "tracking=none"]
    slow = [*command, "model.delay_s=1.5"]  # so that it is not done before it is killed
    process = warm_process.popen(
        [sys.executable, "-m", "runner", *slow], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    give_up_at = time.monotonic() + 90

    def lines() -> list[dict[str, Any]]:
        found = list((tmp_path / "outputs").glob(f"jobs/*/{CALLS}"))
        return [json.loads(line) for line in found[0].read_text().splitlines()] if found else []

    while len(lines()) < 2:
        assert time.monotonic() < give_up_at
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    before = lines()
    calls = [*(f"test/0/0/{agent}" for agent in range(4)), "test/0/decision"]
    answered = [line["id"] for line in before if "code" not in line]
    assert 2 <= len(answered) < 5, "it died while a later agent spoke"
    assert answered == calls[: len(answered)]
    done = runner(*command)
    assert done.code == 0, done.err
    assert f"{len(answered)} agent calls were reused" in done.out
    after = lines()
    assert after[: len(before)] == before
    asked = [line["id"] for line in after[len(before) :] if "code" not in line]
    assert asked == calls[len(answered) :]
    assert re.search(r"team +5 model calls · 1 program failed", done.out)
