"""What the sessions of all engines have in common, tested with the stub: waiting, closing, ids, and
errors."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from job_engines import open_engine
from raising import raises

from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner_base.errors import ConfigError
from runner_base.result import Answer, FinishReason
from runner_engine.sessions.base import Capability, Completion, Event, Request, RequestId
from runner_engine.sessions.contract import Engine
from runner_engine.sessions.session import Session


@pytest.fixture
def engine(make_config: Callable[..., RunnerConfig]) -> Engine:
    return open_engine(make_config(model=StubConfig()))


def test_an_engine_thread_waits_for_work_and_ends_with_the_session(engine: Engine) -> None:
    session = engine.open()
    events: list[Event] = []
    answered = threading.Event()

    def drive() -> None:
        while session.wait_for_requests():
            events.extend(session.step())
            if session.is_idle:
                answered.set()

    thread = threading.Thread(target=drive)
    thread.start()
    assert not session.wait_for_requests(0.01)
    session.submit(Request("a", "Hello", n=2))
    assert answered.wait(60)
    session.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [event.id for event in events] == ["a", "a"]
    assert session.step() == []


def test_an_id_is_under_way_until_all_its_choices_have_ended(engine: Engine) -> None:
    with engine.open() as session:
        session.submit(Request(0, "x", n=2))
        with raises(ConfigError, "exists"):
            session.submit(Request(0, "y"))
        session.submit(Request("0", "y"))
        assert len(session.step()) == 2
        session.submit(Request(0, "z"))
        session.cancel(0)
        ended = [event for _ in range(2) for event in session.step() if isinstance(event, Completion)]
        reasons = {one.id: one.answer.finish_reason for one in ended}
        assert reasons == {0: FinishReason.cancelled, "0": FinishReason.stop}
        assert session.is_idle
    with raises(ConfigError, "failed"):
        session.submit(Request(1, "x"))


class Refusing(Session):
    """Refuses the prompt `no`, and cannot score."""

    def __init__(self) -> None:
        super().__init__(frozenset(Capability) - {Capability.logprobs})
        self.dropped = False

    def _admit(self, request: Request) -> Request:
        if request.prompt == "no":
            raise ValueError("no")
        return request

    def _run_step(self, submitted: list[Request], cancelled: set[RequestId]) -> list[Event]:
        return [Completion(Answer("", [], FinishReason.stop), "", 1, 0.0, one.id, 0.0) for one in submitted]

    def _drop_requests(self) -> None:
        self.dropped = True


def test_a_refused_request_leaves_no_state() -> None:
    with Refusing() as session:
        with pytest.raises(ValueError, match="no"):
            session.submit(Request(0, "no"))
        with raises(ConfigError, "unsupported"):
            session.submit(Request(0, "yes", continuation="x"))
        assert session.is_idle
        session.submit(Request(0, "yes"))
        assert [event.id for event in session.step()] == [0]
        assert session.is_idle
    assert session.dropped
