"""Open sessions: requests come from any thread at any time, each with its own sampling, and can be
ended."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opening import make_spec, open_engine
from raising import raises
from streams import AGENTS, PROMPTS, SYSTEM

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.result import Answer, FinishReason
from runner_engine.kv_cache.sliding_windows import MaskRecorder, UnknownWindow
from runner_engine.local.engine import LocalEngine, LocalSession
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Delta, Event, Message, Request, RequestId
from runner_engine.sessions.session import Session
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.sampling import Sampling
from runner_engine.spec import ModelSpec

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

NEW_TOKENS = 24
WARM = Sampling(temperature=0.8)


def attention_of(engine: LocalEngine) -> Attention:
    assert isinstance(engine.spec.model, LocalModelConfig)
    return engine.spec.model.attention


def configure(folder: Path, attention: Attention = Attention.auto, **keys: object) -> ModelSpec:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS)
    return make_spec(**({"model": model, "generation": generation} | keys))


@pytest.fixture(params=[Attention.auto, Attention.sdpa], ids=["scheduler", "plain"])
def any_engine(request: pytest.FixtureRequest, saved_family: Callable[..., Path]) -> Iterator[LocalEngine]:
    folder = saved_family("llama", max_position_embeddings=512)
    engine = open_engine(configure(folder, request.param))
    yield engine
    engine.close()


@pytest.fixture
def engine(saved_family: Callable[..., Path]) -> Iterator[LocalEngine]:
    engine = open_engine(configure(saved_family("llama", max_position_embeddings=512)))
    yield engine
    assert engine.stats.notes == [], "the scheduler served, not its fallback"
    engine.close()


def drain(session: Session) -> list[Event]:
    """Step until nothing is under way."""
    events = []
    while not session.is_idle:
        events += session.step()
    return events


def completions(events: Sequence[Event]) -> dict[tuple[RequestId, int], Completion]:
    """Return the completions by id and choice; none may come twice."""
    ended = [event for event in events if isinstance(event, Completion)]
    by_choice = {(one.id, one.choice): one for one in ended}
    assert len(by_choice) == len(ended), "answered twice"
    return by_choice


def alone(engine: LocalEngine, request: Request) -> list[int]:
    """Return the tokens of a request that has the engine to itself."""
    (done,) = contract.complete_requests(engine, [request])
    assert done.error is None
    return done.answer.token_ids


# ------------------------------------------------------------------------------------------- late
# requests


@pytest.mark.thorough
def test_a_request_that_comes_while_a_hundred_decode_starts_within_a_step(engine: LocalEngine) -> None:
    late = Request("late", "Nobody has said this before.", max_new_tokens=1)
    long_late = Request("long", SYSTEM + AGENTS[0] + "And now?", ignore_eos=True)
    expected = {request.id: alone(engine, request) for request in (late, long_late)}
    early = [Request(number, f"{number} sheep", ignore_eos=True) for number in range(100)]
    some = {number: alone(engine, early[number]) for number in (0, 41, 99)}
    with engine.open(128) as session:
        for request in early:
            session.submit(request)
        while engine.stats.rows_alive < 100:
            session.step()
        session.step()
        session.submit(late)
        session.submit(long_late)
        events = session.step()
        # its first token comes with the next step
        assert completions(events)["late", 0].answer.token_ids == expected["late"]
        assert engine.stats.rows_alive == 101, (
            "all the others are still there, and the long one is among them"
        )
        done = completions(drain(session))
    assert done["long", 0].answer.token_ids == expected["long"]
    assert {number: done[number, 0].answer.token_ids for number in some} == some
    assert len(done) == 101


def test_late_requests_use_the_beginnings_that_are_there(engine: LocalEngine) -> None:
    first = [Request(number, SYSTEM + AGENTS[0] + f"{number}?", ignore_eos=True) for number in range(4)]
    late = Request(9, SYSTEM + AGENTS[0] + "And what about nine?", ignore_eos=True)
    expected = alone(engine, late)
    with engine.open() as session:
        for request in first:
            session.submit(request)
        for _ in range(3):
            session.step()
        before = replace(engine.stats)
        session.submit(late)
        session.step()
        spent = engine.stats - before
        assert spent.shared_tokens >= len(SYSTEM + AGENTS[0])
        assert spent.prefill_tokens < 40
        assert completions(drain(session))[9, 0].answer.token_ids == expected
        assert isinstance(session, LocalSession)
        assert session.scheduler is not None
        assert session.scheduler.kv.prefixes._alive == {}, "nothing is held for those that have ended"
        assert session.scheduler.kv.own is None


@pytest.mark.thorough
def test_requests_that_come_one_by_one_answer_as_alone(any_engine: LocalEngine) -> None:
    requests = [Request(number, prompt, ignore_eos=True) for number, prompt in enumerate(PROMPTS)]
    expected = {(request.id, 0): alone(any_engine, request) for request in requests}
    events: list[Event] = []
    with any_engine.open() as session:
        for request in requests:
            session.submit(request)
            events += session.step()
            events += session.step()
        events += drain(session)
    assert {key: done.answer.token_ids for key, done in completions(events).items()} == expected


@pytest.mark.thorough
def test_a_session_goes_on_after_it_was_idle(any_engine: LocalEngine) -> None:
    with any_engine.open() as session:
        answers = []
        for _ in range(3):
            session.submit(Request(0, PROMPTS[0]))
            answers.append(completions(drain(session))[0, 0].answer.token_ids)
            assert session.step() == []
    assert answers[0] == answers[1] == answers[2]


# ------------------------------------------------------------------------------------ sampling per
# request


@pytest.mark.thorough
def test_requests_of_one_batch_are_each_sampled_as_alone(any_engine: LocalEngine) -> None:
    """Alone means: in an engine whose generation group says what the request says here."""
    asked = [
        Request(0, PROMPTS[0], max_new_tokens=20),
        Request(1, PROMPTS[1], max_new_tokens=7, sampling=Sampling(temperature=0.7)),
        Request(2, PROMPTS[2], max_new_tokens=13, sampling=Sampling(temperature=1.3, top_k=12, top_p=0.9)),
        Request(3, PROMPTS[3], sampling=Sampling(repetition_penalty=1.4)),
        Request(4, PROMPTS[4], sampling=Sampling(temperature=0.7, seed=77)),
        Request(5, PROMPTS[4], sampling=Sampling(temperature=0.7, repetition_penalty=1.3)),
    ]
    expected = {}
    for request in asked:
        own = request.sampling
        generation = GenerationConfig(
            max_new_tokens=NEW_TOKENS,
            temperature=own.temperature or 0.0,
            top_p=own.top_p or 1.0,
            top_k=own.top_k or 0,
            repetition_penalty=own.repetition_penalty or 1.0,
        )
        folder = Path(any_engine.spec.model.name)
        attention = attention_of(any_engine)
        spec = configure(folder, attention, generation=generation, seed=own.seed or 0)
        lone = open_engine(spec)
        expected[request.id, 0] = alone(lone, replace(request, sampling=Sampling()))
        lone.close()
    assert any_engine.spec.seed == 0
    with any_engine.open() as session:
        for request in asked:
            session.submit(request)
        events = session.step()
        assert not events, "all of them are on their way together"
        done = completions(drain(session))
    assert {key: one.answer.token_ids for key, one in done.items()} == expected
    assert len({tuple(tokens) for tokens in expected.values()}) == len(asked)


@pytest.mark.thorough
def test_three_choices_are_three_runs(any_engine: LocalEngine) -> None:
    """Choice 0 is the request as ever, choice k the one that bears the id and k."""
    request = Request(5, SYSTEM + "How many?", sampling=WARM, n=3, deltas=True)
    expected = [alone(any_engine, replace(request, id=name, n=1)) for name in (5, "5:1", "5:2")]
    assert len({tuple(tokens) for tokens in expected}) == 3
    before = any_engine.stats.prefill_tokens
    with any_engine.open() as session:
        session.submit(request)
        events = drain(session)
    done = completions(events)
    assert [done[5, choice].answer.token_ids for choice in range(3)] == expected
    for choice in range(3):
        texts = [event.text for event in events if isinstance(event, Delta) and event.choice == choice]
        assert "".join(texts) == done[5, choice].answer.text
    if attention_of(any_engine) is Attention.auto:
        assert any_engine.stats.prefill_tokens - before == len(SYSTEM + "How many?") + 2, (
            "the prompt is computed once"
        )


# --------------------------------------------------------------------------------------- cancelling


def test_cancelling_frees_the_row_at_once(engine: LocalEngine) -> None:
    asked = [
        Request(name, prompt, ignore_eos=True)
        for name, prompt in zip(("long", "other"), PROMPTS, strict=False)
    ]
    asked.append(Request("short", PROMPTS[2], max_new_tokens=1))
    expected = {request.id: alone(engine, request) for request in asked}
    with engine.open(batch_size=2) as session:
        for request in asked:
            session.submit(request)
        for _ in range(4):
            assert session.step() == []
        assert (engine.stats.rows_alive, engine.stats.rows_waiting) == (2, 1)
        session.cancel("long")
        session.cancel("nobody")
        done = completions(session.step())
        assert done["long", 0].answer.finish_reason is FinishReason.cancelled
        tokens = done["long", 0].answer.token_ids
        assert 1 <= len(tokens) <= 5
        assert tokens == expected["long"][: len(tokens)]
        assert done["short", 0].answer.token_ids == expected["short"], "it has the row from this very step on"
        assert completions(drain(session))["other", 0].answer.token_ids == expected["other"]


def test_whoever_waits_can_be_cancelled_too(any_engine: LocalEngine) -> None:
    with any_engine.open(batch_size=1) as session:
        session.submit(Request(0, PROMPTS[0], ignore_eos=True))
        session.submit(Request(1, "y", ignore_eos=True, n=2))
        events = session.step()
        session.cancel(1)
        events += drain(session)
        done = completions(events)
        assert [done[1, choice].answer for choice in range(2)] == [Answer("", [], FinishReason.cancelled)] * 2
        assert len(done[0, 0].answer.token_ids) == NEW_TOKENS
        session.submit(Request(1, "y", max_new_tokens=2, ignore_eos=True))
        assert completions(drain(session))[1, 0].answer.finish_reason is FinishReason.length, (
            "the id is free again"
        )


# ------------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("each", [25, pytest.param(125, marks=pytest.mark.thorough)])
def test_eight_threads_submit_many_requests(engine: LocalEngine, each: int) -> None:
    def request_of(thread: int, number: int) -> Request:
        beginning = (SYSTEM + AGENTS[number % 2], "", AGENTS[0])[number % 3]
        sampling = (Sampling(), WARM, Sampling(temperature=1.1, top_k=30))[number % 5 % 3]
        id, prompt = f"{thread}/{number}", f"{beginning}{thread} and {number}"
        return Request(id, prompt, max_new_tokens=1 + number % 4, ignore_eos=True, sampling=sampling)

    with engine.open() as session:

        def submit(thread: int) -> None:
            for number in range(each):
                session.submit(request_of(thread, number))

        threads = [threading.Thread(target=submit, args=(at,)) for at in range(8)]
        for thread in threads:
            thread.start()
        events: list[Event] = []
        while any(thread.is_alive() for thread in threads) or not session.is_idle:
            if session.wait_for_requests(0.05):
                events += session.step()
        for thread in threads:
            thread.join()
    counts = Counter(event.id for event in events if isinstance(event, Completion))
    assert counts == {f"{thread}/{number}": 1 for thread in range(8) for number in range(each)}
    done = completions(events)
    for at in range(0, 8 * each, 13):
        request = request_of(at % 8, at // 8)
        assert done[request.id, 0].answer.token_ids == alone(engine, request), request


# ------------------------------------------------------------------------------------------ what is
# refused


def test_what_a_session_refuses(engine: LocalEngine) -> None:
    session = engine.open()
    session.submit(Request(0, "x"))
    with raises(ConfigError, "exists"):
        session.submit(Request(0, "y"))
    with raises(ConfigError, "unsupported"):
        session.submit(Request(1, "x", branches=("a", "b")))
    with raises(ConfigError, "bad_value", "temperature"):
        Request(1, "x", sampling=Sampling(temperature=-1))
    with raises(ConfigError, "conflict", "request 1"):
        Request(1, "x", continuation="y", n=2)
    with raises(ConfigError, "bad_value", "request.n"):
        Request(1, "x", n=0)
    session.submit(Request(1, tuple([5] * 600), n=2))
    done = completions(drain(session))
    assert [done[1, choice].error for choice in range(2)] == [
        "the prompt has 600 tokens, but the model has room for 512: rope.beyond_trained=true reads on"
    ] * 2
    session.close()
    assert session.step() == []
    with raises(ConfigError, "failed"):
        session.submit(Request(2, "x"))


def test_a_request_that_cannot_be_read_reaches_who_submits_it_and_no_other(engine: LocalEngine) -> None:
    engine.load()
    engine.loaded.tokenizer.chat_template = None
    with engine.open() as session:
        session.submit(Request(0, "x", max_new_tokens=2, ignore_eos=True))
        with raises(ConfigError, "unsupported"):
            session.submit(Request(1, (Message("user", "x"),)))
        assert list(completions(drain(session))) == [(0, 0)]


def test_rows_within_a_window_that_no_mask_tells_of_stay_with_the_scheduler(
    saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def masks_of_its_own(*_: object) -> None:
        raise UnknownWindow

    monkeypatch.setattr(MaskRecorder, "find_sliding_window_of_mask", masks_of_its_own)
    folder = saved_family("mistral", sliding_window=64, max_position_embeddings=512)
    engine = open_engine(configure(folder))
    requests = [Request(0, "Short."), Request(1, PROMPTS[0]), Request(2, "Short, too.")]
    expected = {(request.id, 0): alone(engine, request) for request in requests}
    notes = len(engine.stats.notes)
    with engine.open() as session:
        for request in requests:
            session.submit(request)
        session.step()
        assert engine.stats.rows_alive == 3, "two in the scheduler, one in a plain batch"
        done = completions(drain(session))
    assert engine.stats.rows_alive == 0
    assert {key: one.answer.token_ids for key, one in done.items()} == expected
    assert len(engine.stats.notes) == notes == 1
    engine.close()
