"""Many threads, one session: a stub that can be made to fail, and a real tiny model."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from job_engines import open_engine
from raising import raises

from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.engines.kinds.stub import StubEngine, StubSession
from runner_base.errors import ConfigError, JobFailed
from runner_base.result import FinishReason
from runner_engine.sessions.base import Completion, Delta, Event, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.sessions.driver import Driver
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
WAIT_S = 60


class Recorder:
    """A listener that records the events of one request."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()

    def __call__(self, event: Event | Exception) -> None:
        self.events.put(event)

    def end(self) -> tuple[str, Completion]:
        """Return the deltas as one text, and the completion."""
        text = ""
        while not isinstance(event := self.events.get(timeout=WAIT_S), Completion):
            assert isinstance(event, Delta), event
            text += event.text
        return text, event


@pytest.mark.thorough
def test_each_of_eight_threads_gets_its_own_events(make_config: Make, tiny_model: LocalModelConfig) -> None:
    config = make_config(model=tiny_model, generation=GenerationConfig(max_new_tokens=12))
    prompts = [f"{number} apples and {number % 7} pears" for number in range(40)]
    engine = open_engine(config)
    alone = {
        one.id: one
        for one in complete_requests(engine, [Request(n, prompt) for n, prompt in enumerate(prompts)])
    }
    engine.close()
    answers: dict[int, tuple[str, Completion]] = {}
    with Driver(open_engine(config)) as driver:
        assert driver.wait_until_loaded(WAIT_S).facts["architecture"] == "LlamaForCausalLM"

        def ask(first: int) -> None:
            for number in range(first, len(prompts), 8):
                recorder = Recorder()
                driver.submit(Request(number, prompts[number], deltas=True), recorder)
                answers[number] = recorder.end()

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert driver.num_active == 0
    assert {n: (text, one.answer.text, one.answer.token_ids) for n, (text, one) in answers.items()} == {
        n: (one.answer.text, one.answer.text, one.answer.token_ids) for n, one in alone.items()
    }


class BreakingEngine(StubEngine):
    """Fails at the prompt `break`."""

    opened = 0

    def open(self, batch_size: int | None = None) -> StubSession:
        self.opened += 1
        if self.opened > 1:
            time.sleep(0.2)  # so that a request comes before it is open again

        class Failing(StubSession):
            def _run_step(self, submitted: list[Request], cancelled: set[Any]) -> list[Event]:
                if any(request.prompt == "break" for request in submitted):
                    raise RuntimeError("something in the engine broke")
                return super()._run_step(submitted, cancelled)

        return Failing(self)


def test_a_step_that_fails_ends_its_requests_and_not_the_next_ones(make_config: Make) -> None:
    with Driver(BreakingEngine(make_config(model=StubConfig()), delay_s=0.0)) as driver:
        driver.wait_until_loaded(WAIT_S)
        broken, next_one = Recorder(), Recorder()
        driver.submit(Request(1, "break"), broken)
        assert "broke" in str(broken.events.get(timeout=WAIT_S))
        assert driver.num_active == 0
        driver.submit(Request(1, "Hi"), next_one)
        assert next_one.end()[1].answer.text.startswith("[STUB_GENERATION]")


class Unanswering(StubEngine):
    """Answers no request, so that all are under way until they are cancelled or dropped."""

    def open(self, batch_size: int | None = None) -> StubSession:
        class Holding(StubSession):
            def _run_step(self, submitted: list[Request], cancelled: set[Any]) -> list[Event]:
                requests = [*self.waiting, *submitted]
                self.waiting = deque(request for request in requests if request.id in cancelled)
                events = super()._run_step([], cancelled)
                self.waiting = deque(request for request in requests if request.id not in cancelled)
                time.sleep(0.001)  # else its thread would take a processor
                return events

        return Holding(self)


def test_cancelling_and_closing(make_config: Make) -> None:
    driver = Driver(Unanswering(make_config(model=StubConfig()), delay_s=0.0))
    driver.wait_until_loaded(WAIT_S)
    recorders = [Recorder() for _ in range(20)]
    for number, recorder in enumerate(recorders):
        driver.submit(Request(number, "Hi"), recorder)
    with raises(ConfigError, "exists"):
        driver.submit(Request(19, "Hi"), Recorder())
    driver.cancel(18)
    assert recorders[18].end()[1].answer.finish_reason is FinishReason.cancelled
    assert driver.num_active == 19
    driver.close()
    assert isinstance(recorders[19].events.get(timeout=WAIT_S), JobFailed)
    with raises(JobFailed, "failed"):
        driver.submit(Request(20, "Hi"), Recorder())


def test_the_error_of_a_load_is_raised_for_those_who_wait(
    make_config: Make, tiny_model: LocalModelConfig
) -> None:
    config = make_config(model=LocalModelConfig(name="/nowhere/at/all", device="cpu"))
    driver = Driver(open_engine(config))
    with raises(ConfigError, "not_found", "model.name"):
        driver.wait_until_loaded(WAIT_S)
    driver.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_the_error_that_ended_the_engine_is_raised_for_every_request(
    make_config: Make, is_busy: bool
) -> None:
    class Dying(StubSession):
        is_dead = False

        def check(self) -> None:
            if self.is_dead:
                raise JobFailed("process 1 was killed", code="failed")

        def step(self) -> list[Event]:
            self.is_dead = True
            raise RuntimeError("its connection is closed")

    class Engine(StubEngine):
        def open(self, batch_size: int | None = None) -> StubSession:
            self.session = Dying(self)
            return self.session

    engine = Engine(make_config(model=StubConfig()), delay_s=0.0)
    driver = Driver(engine)
    driver.wait_until_loaded(WAIT_S)
    recorder = Recorder()
    if is_busy:
        driver.submit(Request(0, "Hi"), recorder)
        assert str(recorder.events.get(timeout=WAIT_S)) == "process 1 was killed"
    else:
        engine.session.is_dead = True
    driver._thread.join(WAIT_S)
    assert not driver.is_alive
    assert str(driver.failure) == "process 1 was killed"
    with raises(JobFailed, "failed"):
        driver.submit(Request(1, "Hi"), Recorder())
    driver.close()
