"""The engine of model=api over real HTTP: what is sent, what is returned, and the faults of
servers."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_standin import Api, Trouble, unreachable
from job_engines import open_engine
from listening import complete_with_deltas
from raising import raises

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig, ApiExtensions
from runner_base.errors import ConfigError, JobFailed
from runner_base.notes import text_note
from runner_base.result import FinishReason
from runner_engine.sessions.base import Completion, Delta, Message, Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.sessions.driver import Driver
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.sampling import Sampling

Make = Callable[..., RunnerConfig]
Ask = Callable[..., list[Completion]]
WAIT_S = 60.0
HI = (Message("system", "Be kind."), Message("user", "Hi"))


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as api:
        yield api


@pytest.fixture
def ask(make_config: Make, api: Api) -> Ask:
    """Return a function that completes requests; keys of the model group may be given."""

    def ask(*requests: Request, generation: GenerationConfig | None = None, **keys: Any) -> list[Completion]:
        engine = open_engine(config_of(make_config, api.url, generation, **keys))
        try:
            return sorted(complete_requests(engine, requests), key=lambda one: (str(one.id), one.choice))
        finally:
            engine.close()

    return ask


def config_of(make: Make, url: str, generation: GenerationConfig | None = None, **keys: Any) -> RunnerConfig:
    quick: dict[str, Any] = {
        "name": "tiny",
        "base_url": url,
        "backoff_s": 0.01,
        "retries": 3,
        "connect_timeout_s": WAIT_S,
        "first_token_timeout_s": WAIT_S,
    }
    groups = {} if generation is None else {"generation": generation}
    return make(model=ApiConfig(**(quick | keys)), **groups)


def test_chats_texts_and_token_ids_go_to_their_endpoints(ask: Ask, api: Api) -> None:
    answered = ask(Request(0, HI), Request(1, "Once upon"), Request(2, (5, 6, 7)))
    assert [one.answer.text for one in answered] == ["I heard Hi", "I heard Once upon", "I heard [5, 6, 7]"]
    chat, *_ = answered
    bodies = {str(body.get("messages", body.get("prompt"))): body for body in api.seen}
    sent = bodies[str([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])]
    assert {key: sent[key] for key in ("model", "max_tokens", "temperature")} == {
        "model": "tiny",
        "max_tokens": 24,
        "temperature": 0.0,
    }
    assert not {"seed", "top_p", "stop", "n", "top_k", "max_completion_tokens"} & sent.keys()
    assert "[5, 6, 7]" in bodies
    assert (chat.prompt_tokens, chat.answer.new_tokens, chat.answer.token_ids) == (1, 3, [])
    assert (chat.by, chat.answer.finish_reason, chat.cost_usd) == ("tiny-2026-11", FinishReason.stop, None)
    assert 0 < chat.first_token_s <= chat.seconds


def test_parameters_are_sent(ask: Ask, api: Api) -> None:
    sampling = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1}
    sampling |= {"frequency_penalty": 0.5, "presence_penalty": -0.5}
    warm = GenerationConfig(**sampling, max_new_tokens=2)  # type: ignore[arg-type]
    first, second = ask(Request(0, HI, stop=("\n",), n=2), generation=warm, extensions=ApiExtensions.vllm)
    (sent,) = api.seen
    expected = sampling | {"n": 2, "stop": ["\n"]}
    assert {key: sent[key] for key in expected} == expected
    assert (first.choice, second.choice, first.answer.text, second.answer.text) == (
        0,
        1,
        "I heard",
        "I heard",
    )
    assert {first.answer.finish_reason, second.answer.finish_reason} == {FinishReason.length}
    assert (first.answer.new_tokens, second.answer.new_tokens) == (4, 0), (
        "the server counts all choices together"
    )


@pytest.mark.thorough
def test_seeds_follow_the_job_and_the_request(ask: Ask, api: Api) -> None:
    warm = GenerationConfig(temperature=0.7, max_new_tokens=2)
    ask(
        Request(0, HI),
        Request(1, HI),
        Request(2, HI, sampling=Sampling(seed=42)),
        generation=warm,
        concurrency=1,
    )
    ask(Request(0, HI), generation=warm)
    seeds = [body["seed"] for body in api.seen]
    assert seeds[0] == seeds[3] != seeds[1]
    assert seeds[2] == 42
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_openai_itself_gets_the_limit_under_its_new_name(make_config: Make) -> None:
    from runner.options.remote.engine import ApiEngine

    config = config_of(make_config, "https://api.openai.com/v1")
    assert isinstance(config.model, ApiConfig)
    sent = ApiEngine(config, config.model, frozenset()).build_request_parameters(Request(0, HI))
    assert sent["max_completion_tokens"] == 24
    assert "max_tokens" not in sent


def test_what_the_api_cannot_express_is_refused_before_any_call(ask: Ask, api: Api) -> None:
    with raises(ConfigError, "unsupported", "request.top_k") as caught:
        ask(Request(0, HI, sampling=Sampling(temperature=1.0, top_k=5)))
    assert caught.value.value == 5
    for request, words in (
        (Request(0, HI, ignore_eos=True), "answers of a fixed length"),
        (Request(0, HI, branches=("a", "b")), "branches"),
        (Request(0, HI, continuation="a"), "log-probabilities"),
    ):
        with pytest.raises(ConfigError, match=words):
            ask(request)
    assert api.seen == []
    ask(Request(0, HI, ignore_eos=True), extensions=ApiExtensions.vllm)
    assert api.seen[0]["ignore_eos"] is True


def test_cost_is_counted(ask: Ask) -> None:
    (one,) = ask(Request(0, HI), price_in=2.0, price_out=10.0)
    assert one.cost_usd == pytest.approx((1 * 2 + 3 * 10) / 1e6)


def test_no_more_requests_at_once_than_allowed(ask: Ask, api: Api) -> None:
    three = threading.Barrier(3, timeout=WAIT_S)

    def answer_three_at_once(body: dict[str, Any]) -> str:
        three.wait()
        return "Hi"

    api.answer = answer_three_at_once
    assert {
        one.answer.text for one in ask(*(Request(number, HI) for number in range(12)), concurrency=3)
    } == {"Hi"}
    assert api.most_at_once == 3


def test_text_is_returned_as_it_arrives(make_config: Make, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends a piece only after the one before was returned."""
    returned, waits, texts = threading.Semaphore(0), list[bool](), list[str]()

    def on_text(delta: Delta) -> None:
        texts.append(delta.text)
        returned.release()

    monkeypatch.setattr(api, "pause", lambda: waits.append(returned.acquire(timeout=WAIT_S)))
    engine = open_engine(config_of(make_config, api.url))
    (done,) = complete_with_deltas(engine, [Request(0, HI)], on_text)
    engine.close()
    assert texts == ["I", " heard", " Hi"]
    assert "".join(texts) == done.answer.text
    assert waits == [True] * 3


def test_a_cancelled_request_closes_its_connection(make_config: Make, api: Api) -> None:
    api.answer, api.delay_s = lambda body: "word " * 20, 0.2
    engine = open_engine(config_of(make_config, api.url, concurrency=1))
    with engine.open() as session:
        for number in range(2):
            session.submit(Request(number, HI, deltas=True))
        events: list[Any] = []
        while not any(isinstance(event, Delta) for event in events):
            events += session.step()
        # while the other one has the only place: that one's end would let it be sent
        session.cancel(1)
        session.cancel(0)
        while not session.is_idle:
            events += session.step()
    ended = {event.id: event for event in events if isinstance(event, Completion)}
    assert {one.answer.finish_reason for one in ended.values()} == {FinishReason.cancelled}
    assert ended[0].answer.text.startswith("word")
    assert ended[1].answer.text == ""
    until(lambda: api.gone == 1)
    assert len(api.seen) == 1, "the waiting request was never sent"
    engine.close()


@pytest.mark.thorough
def test_any_thread_submits_while_others_are_under_way(make_config: Make, api: Api) -> None:
    api.delay_s = 0.02
    with Driver(open_engine(config_of(make_config, api.url))) as driver:
        driver.wait_until_loaded(WAIT_S)
        completions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threads = [
            threading.Thread(
                target=driver.submit, args=(Request(f"{number}", f"hello {number}"), completions.put)
            )
            for number in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        texts = {completions.get(timeout=WAIT_S).answer.text for _ in threads}
    assert texts == {f"I heard hello {number}" for number in range(6)}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ----------------------------------------------------------------------------------- servers that
# misbehave


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble",
    [
        Trouble("status", 429), Trouble("status", 429, {"Retry-After": "0.1"}), Trouble("status", 500),
        Trouble("status", 503, {"Retry-After": "Fri, 01 Jan 2021 00:00:00 GMT"}), Trouble("status", 502, {"Retry-After": "soon"}),
        Trouble("cut"), Trouble("reset"), Trouble("malformed"), Trouble("odd"), Trouble("stall"),
        Trouble("error_event"), Trouble("endless"), Trouble("endless_line"),
    ],
    ids=lambda trouble: f"{trouble.kind}-{trouble.status}-{len(trouble.headers)}",
)  # fmt: skip
def test_a_request_without_an_answer_is_sent_again(ask: Ask, api: Api, trouble: Trouble) -> None:
    api.troubles.extend([trouble] * 2)
    (one,) = ask(Request(0, HI), first_token_timeout_s=2.0 if trouble.kind == "stall" else WAIT_S)
    assert (one.answer.text, one.answer.finish_reason, one.error) == ("I heard Hi", FinishReason.stop, None)
    assert (len(api.seen), len(api.answered)) == (3, 1)


@pytest.mark.thorough
def test_retry_after_holds_for_all(ask: Ask, api: Api) -> None:
    api.troubles.extend([Trouble("status", 429, {"Retry-After": "0.5"})] * 2)
    started = time.monotonic()
    assert len(ask(*(Request(number, HI) for number in range(6)), concurrency=2)) == 6
    assert time.monotonic() - started > 0.5
    assert len(api.seen) == 8


def test_a_server_that_asks_to_wait_for_an_hour_ends_the_job(ask: Ask, api: Api) -> None:
    api.always = Trouble("status", 429, {"Retry-After": "3600"})
    with raises(JobFailed, "refused"):
        ask(Request(0, HI))


def test_what_stays_without_an_answer_is_an_error_of_its_own(ask: Ask, api: Api) -> None:
    api.troubles.extend([Trouble("status", 500)] * 4)
    first, second = ask(Request(0, HI), Request(1, HI), concurrency=1)
    assert first.answer.finish_reason is FinishReason.error
    assert str(first.error).endswith("answered 500: boom (4 attempts)")
    assert second.answer.text == "I heard Hi"


def test_a_server_that_answers_nobody_ends_the_job(ask: Ask, api: Api) -> None:
    api.always = Trouble("status", 500)
    with raises(JobFailed, "failed"):
        ask(*(Request(number, HI) for number in range(20)), concurrency=2, retries=1)
    assert len(api.seen) <= 12


def test_a_wrong_request_is_not_sent_again(ask: Ask, api: Api) -> None:
    api.troubles.append(Trouble("status", 400, message="too long"))
    (one,) = ask(Request(0, HI))
    assert one.answer.finish_reason is FinishReason.error
    assert str(one.error).endswith("answered 400: too long")
    assert len(api.seen) == 1


def test_text_that_was_returned_is_not_returned_again(make_config: Make, api: Api) -> None:
    api.troubles.append(Trouble("cut"))
    engine = open_engine(config_of(make_config, api.url))
    texts: list[str] = []
    (one,) = complete_with_deltas(engine, [Request(0, HI)], lambda delta: texts.append(delta.text))
    engine.close()
    assert texts == ["half of an ans"]
    assert one.answer.finish_reason is FinishReason.error
    assert "after part of the answer" in str(one.error)
    assert len(api.seen) == 1


def test_an_answer_that_takes_too_long_is_abandoned(ask: Ask, api: Api) -> None:
    api.answer, api.delay_s = lambda body: "word " * 20, 0.1
    (one,) = ask(Request(0, HI), request_timeout_s=0.5, retries=0)
    assert "took longer than 0.5 s for an answer" in str(one.error)


def test_a_missing_token_count_is_noted(make_config: Make, api: Api) -> None:
    api.always = Trouble("no_usage")
    engine = open_engine(config_of(make_config, api.url))
    (one,) = complete_requests(engine, [Request(0, HI)])
    assert (one.answer.text, one.answer.new_tokens) == ("I heard Hi", 0)
    assert engine.stats.notes == [
        text_note("1 answer recorded with 0 tokens, because the server reported no token count")
    ]
    engine.close()


def test_nobody_there_is_one_error(make_config: Make) -> None:
    with unreachable() as url:
        engine = open_engine(config_of(make_config, url, extensions=ApiExtensions.openai))
        with raises(JobFailed, "unreachable"):
            engine.load()
        with raises(JobFailed, "failed"):
            list(complete_requests(engine, [Request(0, HI)]))
        engine.close()


def test_a_conversation_with_calls_is_sent_with_them(ask: Ask, api: Api) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"é": [1, 2]}}}
    turns = (
        Message("user", "1 + 2?"),
        Message("assistant", "", "Let me see.", calls=json.dumps([call])),
        Message("tool", "3", call_id="c1", name="add"),
        Message("user", "And twice that?"),
    )
    ask(Request(0, turns))
    sent_call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"é": [1, 2]}'}}  # fmt: skip
    assert api.seen[0]["messages"] == [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [sent_call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
        {"role": "user", "content": "And twice that?"},
    ]
