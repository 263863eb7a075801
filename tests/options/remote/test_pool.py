"""Several servers with one model, over real HTTP: who gets a request, and what happens when one
fails or returns."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_standin import Api, Trouble, unreachable
from job_engines import open_engine
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.remote import server_pool
from runner.options.remote.keys import ApiConfig, ApiExtensions
from runner.options.remote.model import RemoteModel
from runner_base.errors import ConfigError, JobFailed
from runner_base.result import FinishReason
from runner_engine.sessions.base import Message, Request
from runner_engine.sessions.contract import complete_requests

Make = Callable[..., RunnerConfig]
WAIT_S = 60.0


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    server_pool._reported_out.clear()


@pytest.fixture
def two() -> Iterator[tuple[Api, Api]]:
    with Api() as first, Api() as second:
        yield first, second


def requests(number: int) -> list[Request]:
    return [Request(index, (Message("user", f"question {index}"),)) for index in range(number)]


@pytest.fixture
def opened(make_config: Make) -> Iterator[Callable[..., RemoteModel]]:
    """Return a function that opens the engine of a pool."""
    engines: list[RemoteModel] = []

    def opened(*urls: str, **keys: Any) -> RemoteModel:
        quick = {
            "backoff_s": 0.02,
            "retries": 3,
            "connect_timeout_s": WAIT_S,
            "first_token_timeout_s": WAIT_S,
        }
        engine: Any = open_engine(
            make_config(model=ApiConfig(name="tiny", base_url=list(urls), **(quick | keys)))
        )
        engines.append(engine)
        return engine

    yield opened
    for engine in engines:
        engine.close()


def answers(engine: RemoteModel, asked: list[Request]) -> dict[Any, str]:
    """Complete requests; each must get one answer."""
    done = list(complete_requests(engine, asked))  # type: ignore[arg-type]
    assert sorted(one.id for one in done) == [one.id for one in asked]
    return {one.id: one.answer.text if one.error is None else one.error for one in done}


def expected(number: int) -> dict[int, str]:
    return {index: f"I heard question {index}" for index in range(number)}


def lines(engine: RemoteModel) -> dict[str, tuple[int, int, str]]:
    return {row["server"]: (row["requests"], row["failures"], row["state"]) for row in engine.stats.servers}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.thorough
def test_the_least_busy_server_gets_the_next_request(opened: Any, two: tuple[Api, Api]) -> None:
    slow, quick = two
    free = threading.Event()

    def answer_late(body: dict[str, Any]) -> str:
        free.wait(WAIT_S)
        return f"I heard {body['messages'][-1]['content']}"

    slow.answer = answer_late
    engine = opened(slow.url, quick.url, concurrency=4)

    def free_the_slow_one() -> None:
        until(lambda: len(quick.answered) >= 17)
        free.set()

    threading.Thread(target=free_the_slow_one, daemon=True).start()
    assert answers(engine, requests(20)) == expected(20)
    assert len(slow.answered) <= 3, (
        "with one request waiting at each, the slow server has as many as the quick one"
    )
    assert lines(engine) == {
        slow.url: (len(slow.seen), 0, "in use"),
        quick.url: (len(quick.seen), 0, "in use"),
    }


@pytest.mark.thorough
def test_equal_servers_get_equally_many(opened: Any, two: tuple[Api, Api]) -> None:
    assert answers(opened(*(api.url for api in two), concurrency=1), requests(10)) == expected(10)
    assert [len(api.answered) for api in two] == [5, 5]


def test_a_single_server_has_no_table(opened: Any, two: tuple[Api, Api]) -> None:
    engine = opened(two[0].url)
    assert answers(engine, requests(1)) == expected(1)
    assert engine.stats.servers == []


@pytest.mark.thorough
def test_requests_of_a_server_that_dies_are_asked_at_the_other(
    opened: Any, two: tuple[Api, Api], caplog: pytest.LogCaptureFixture
) -> None:
    dying, healthy = two
    dying.delay_s = 1.0
    engine = opened(dying.url, healthy.url, concurrency=4, backoff_s=5.0)

    def die() -> None:
        until(lambda: dying.at_once == 2)
        dying.die()

    threading.Thread(target=die, daemon=True).start()
    with caplog.at_level(logging.WARNING):
        assert answers(engine, requests(30)) == expected(30)
    assert sorted(healthy.answered) == sorted(f"question {index}" for index in range(30)), "each once"
    sent, failed, state = lines(engine)[dying.url]
    assert sent == failed > 0
    assert state == "left out"
    assert lines(engine)[healthy.url] == (30, 0, "in use")
    left_out = [line for line in caplog.messages if "gets no requests until it answers again" in line]
    assert len(left_out) == 1, caplog.messages
    assert left_out[0].startswith(dying.url)
    assert left_out[0].endswith("; the other servers get its requests")


@pytest.mark.thorough
def test_a_server_that_fails_quickly_does_not_attract_all_requests(opened: Any, two: tuple[Api, Api]) -> None:
    failing, healthy = two
    failing.always = Trouble("status", 500)
    engine = opened(failing.url, healthy.url, concurrency=2, backoff_s=5.0)
    assert answers(engine, requests(40)) == expected(40)
    assert len(failing.seen) <= server_pool.FAILURES_IN_A_ROW + 1


@pytest.mark.thorough
def test_a_pause_holds_only_for_the_server_that_asks_for_it(opened: Any, two: tuple[Api, Api]) -> None:
    busy, free = two
    busy.always = Trouble("status", 429, {"Retry-After": "3600"})
    engine = opened(busy.url, free.url, concurrency=2)
    started = time.monotonic()
    assert answers(engine, requests(10)) == expected(10)
    assert time.monotonic() - started < WAIT_S
    assert len(busy.seen) <= 2
    assert lines(engine)[busy.url][2] == "in use", "it has only asked for a pause"


def after_a_death(opened: Any, two: tuple[Api, Api]) -> tuple[RemoteModel, int]:
    """Return an engine that goes on without its first server, and the port where that was."""
    first, healthy = two
    port = first.port
    engine: RemoteModel = opened(first.url, healthy.url, concurrency=2)
    engine.load()
    first.die()
    assert answers(engine, requests(10)) == expected(10)
    return engine, port


def test_a_server_that_answers_again_gets_requests_again(
    opened: Any, two: tuple[Api, Api], caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = two
    engine, port = after_a_death(opened, two)
    assert lines(engine)[first.url][2] == "left out"
    again = Api()
    again.port = port
    with again, caplog.at_level(logging.WARNING):
        until(lambda: any("answers again and gets requests again" in line for line in caplog.messages))
        assert answers(engine, requests(10)) == expected(10)
        assert again.answered
        assert lines(engine)[first.url][2] == "in use"


def test_a_server_that_returns_with_another_model_stays_left_out(
    opened: Any, two: tuple[Api, Api], caplog: pytest.LogCaptureFixture
) -> None:
    engine, port = after_a_death(opened, two)
    other = Api()
    other.port = port
    other.models = [{"id": "tiny", "root": "/models/tiny-v2"}]
    with other, caplog.at_level(logging.WARNING):
        until(lambda: any("it stays left out" in line for line in caplog.messages))
        assert answers(engine, requests(4)) == expected(4)
        assert other.seen == []


def test_a_server_that_is_gone_at_the_start_is_left_out(opened: Any, two: tuple[Api, Api]) -> None:
    with unreachable() as nowhere:
        engine = opened(nowhere, two[0].url)
        report = engine.load()
        assert report.facts["reported_model"] == "id tiny, root /models/tiny-v1"
        assert report.facts["server"] == ", ".join(sorted([nowhere, two[0].url]))
        assert answers(engine, requests(5)) == expected(5)
        assert lines(engine)[nowhere] == (0, 1, "left out")


def test_no_server_at_all_is_one_error(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    with unreachable() as one, unreachable() as other, caplog.at_level(logging.WARNING):
        engine = opened(one, other, extensions=ApiExtensions.openai)
        with raises(JobFailed, "unreachable"):
            engine.load()
        with raises(JobFailed, "failed"):
            list(complete_requests(engine, requests(1)))
    said = [
        line.partition("gets no requests until it answers again; ")[2]
        for line in caplog.messages
        if "gets no requests until it answers again" in line
    ]
    assert said == ["the other servers get its requests", "no other server is left"]


def test_a_question_without_an_answer_anywhere_is_an_error(opened: Any, two: tuple[Api, Api]) -> None:
    for api in two:
        api.troubles.extend([Trouble("status", 500)] * 4)
    engine = opened(*(api.url for api in two), concurrency=1)
    (first,) = complete_requests(engine, requests(1))
    assert first.answer.finish_reason is FinishReason.error
    # three rounds leave out both; one that is back in use by the fourth is asked alone, if the
    # other is still out
    sent = sum(len(api.seen) for api in two)
    assert sent in (7, 8)
    assert str(first.error).endswith(f"answered 500: boom ({sent} attempts)")


def test_servers_with_different_models_are_refused(opened: Any, two: tuple[Api, Api]) -> None:
    two[1].models = [{"id": "tiny", "root": "/models/tiny-v2"}]
    with raises(ConfigError, "mismatch", "model.base_url") as error:
        opened(*(api.url for api in two)).load()
    for api, version in zip(two, ("v1", "v2"), strict=True):
        pattern = rf"{api.url} (reports )?id tiny, root /models/tiny-{version}\b"
        assert re.search(pattern, str(error.value)), "each server is named with its own model"


def test_a_server_without_the_model_is_refused(opened: Any, two: tuple[Api, Api]) -> None:
    two[1].models = [{"id": "huge"}, {"id": "large"}]
    with raises(ConfigError, "not_found", "model.name"):
        opened(*(api.url for api in two)).load()


@pytest.mark.thorough
def test_only_what_all_servers_accept_is_sent(opened: Any, two: tuple[Api, Api]) -> None:
    for api, owner in zip(two, ("vllm", "somebody"), strict=True):
        api.models = [{"id": "tiny", "owned_by": owner, "max_model_len": 512 if owner == "vllm" else 256}]
    engine = opened(*(api.url for api in two))
    assert engine.load().metrics["max_positions"] == 256
    with pytest.raises(ConfigError, match="answers of a fixed length"):
        list(complete_requests(engine, [Request(0, "x", ignore_eos=True)]))
    one = opened(two[0].url)
    assert one.load().metrics["max_positions"] == 512
    assert [answer.answer.text for answer in complete_requests(one, [Request(0, "x", ignore_eos=True)])] == [
        "I heard x"
    ]
