from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from raising import raises

from runner.config.root import RunnerConfig
from runner.engines.kinds.stub import StubEngine
from runner.options.agents.call_log import CallLogFile
from runner.options.agents.discussion import AgentCall, AnsweredCall
from runner.options.agents.keys import PromptStyle, Role
from runner.sandbox.sandbox import CodeOutcome, CodeStatus
from runner_base.errors import RunRecordError
from runner_base.result import CALLS, Answer, Call, FinishReason

Calls = Callable[..., CallLogFile]


@pytest.fixture
def calls(make_config: Callable[..., RunnerConfig], tmp_path: Path) -> Callable[..., CallLogFile]:
    """Return a function that opens the file of calls."""
    engine = StubEngine(make_config(), 0.0)
    return lambda **keys: CallLogFile(tmp_path, engine, **keys)


def turn(key: str = "test/0/0/2", question: str = "How many?") -> AgentCall:
    return AgentCall(key, 2, 0, Role.programming_expert, PromptStyle.brief, question, (), ())


def answered(
    of: AgentCall, reason: FinishReason = FinishReason.stop, permanent: bool = False
) -> AnsweredCall:
    error = "boom" if reason is FinishReason.error else None
    answer = Answer("answer = 7", [1, 2], reason)
    return AnsweredCall(
        of, Call(answer, "sha", 9, 0.25, of.role_name, error=error, permanent=permanent, cost_usd=0.5)
    )


def coded(of: AgentCall) -> AnsweredCall:
    plain = answered(of)
    return AnsweredCall(of, plain.call, CodeOutcome("7", CodeStatus.ok, printed="hello"))


def test_a_call_comes_back_as_it_was_with_what_its_program_came_to(tmp_path: Path, calls: Calls) -> None:
    file, failed = calls(), CodeOutcome(None, CodeStatus.code_failed, "it was stopped")
    asked = turn()
    assert file.find_answer(asked) is None
    file.add(answered(asked))
    file.close()
    again = calls()
    assert again.find_answer(asked) == answered(asked), "its program has still to be run"
    again.add_code_outcome(coded(asked))
    other = turn("test/1/0/2")
    again.add(answered(other))
    again.add_code_outcome(AnsweredCall(other, answered(other).call, failed))
    again.close()
    last = calls()
    assert last.find_answer(asked) == coded(asked)
    found = last.find_answer(other)
    assert found is not None
    assert found.code == failed
    assert (last.reused, last.asked_again) == (2, 0)
    assert last.find_answer(turn(question="How few?")) is None, "another prompt under the same id"


def test_what_ended_in_an_error_is_asked_again_unless_nothing_could_come_of_it(
    tmp_path: Path, calls: Calls
) -> None:
    file = calls()
    passing, hopeless = turn("a"), turn("b")
    file.add(answered(passing, FinishReason.error))
    file.add(answered(hopeless, FinishReason.error, permanent=True))
    file.close()
    again = calls()
    assert again.find_answer(passing) is None
    assert again.find_answer(hopeless) == answered(hopeless, FinishReason.error, permanent=True)
    assert again.asked_again == 1
    assert calls(retry_permanent=True).find_answer(hopeless) is None
    again.add(answered(passing))
    again.close()
    assert calls().find_answer(passing) == answered(passing), "the later line counts"


def test_a_torn_line_is_cut_off_and_a_damaged_one_named(tmp_path: Path, calls: Calls) -> None:
    file = calls()
    file.add(answered(turn("a")))
    file.add(answered(turn("b")))
    file.close()
    path = tmp_path / CALLS
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    torn = calls()
    assert torn.find_answer(turn("a")) is not None
    assert torn.find_answer(turn("b")) is None
    torn.add(answered(turn("b")))
    torn.close()
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"answer = 7", b"answer = 8", 1))
    with raises(RunRecordError, "damaged") as changed:
        calls()
    assert str(changed.value).startswith(f"{path}, line 1: ")
    assert "checksum" in str(changed.value)
    stray = json.loads(whole.splitlines()[0])
    assert stray["who"] == "Programming Expert"


def test_an_outcome_without_its_call_is_refused(tmp_path: Path, calls: Calls) -> None:
    file = calls()
    file.add_code_outcome(coded(turn("a")))
    file.close()
    with raises(RunRecordError, "damaged") as lonely:
        calls()
    assert re.search(r"calls.jsonl, line 1: .*\(KeyError", str(lonely.value))
