"""Long prompts beside short ones: they are read in pieces while others decode, and the answers stay
the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from streams import tokens_of

from runner_base.dtypes import Dtype
from runner_engine.attention.attention import PassLayout
from runner_engine.checkpoints import pass_memory
from runner_engine.decode import kv_budget
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.kv_cache import prefix_tree
from runner_engine.kv_cache.kv_store import get_attention_kernels_if_supported
from runner_engine.local.engine import LocalEngine, LocalSession
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Event, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

MOST = 64  # tokens of prompts in one pass
NEW = 12
NUMBERS = torch.Generator().manual_seed(5)


def ids(count: int) -> tuple[int, ...]:
    return tuple(torch.randint(5, 60, (count,), generator=NUMBERS).tolist())


SHORT = [Request(number, ids(8 + number % 5), ignore_eos=True) for number in range(30)]
LONG = Request("long", ids(700), ignore_eos=True)
GIVEN = Request("given", ids(200), continuation=ids(90))


@pytest.fixture(params=["kernels", "torch"])
def by_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    is_torch: bool = request.param == "torch"
    if is_torch:
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    elif native.load_kernels() is None:
        pytest.skip("no C compiler is here")
    return is_torch


@pytest.fixture
def engine(saved_family: Callable[..., Path], by_torch: bool) -> Iterator[LocalEngine]:
    model = LocalModelConfig(
        name=str(saved_family("llama", max_position_embeddings=1024)), device="cpu", dtype=Dtype.float32
    )
    greedy = GenerationConfig(max_new_tokens=NEW)
    one = open_engine(make_spec(model=model, generation=greedy))
    yield one
    one.close()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of tokens of each pass."""
    seen: list[int] = []
    real = Forward._run_model

    def forward(
        self: Forward, what: PassLayout, ids: list[int], positions: list[int], keep: Any
    ) -> torch.Tensor:
        seen.append(len(ids))
        return real(self, what, ids, positions, keep)

    monkeypatch.setattr(Forward, "_run_model", forward)
    return seen


def alone(engine: LocalEngine, asked: list[Request]) -> dict[Any, Completion]:
    return {request.id: done for request in asked for done in contract.complete_requests(engine, [request])}


@pytest.mark.thorough
def test_one_long_request_leaves_the_rows_to_short_ones(
    engine: LocalEngine, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget counts what each row needs: with all rows as long as the longest, only two would
    fit."""
    expected = alone(engine, [*SHORT, LONG, GIVEN])
    monkeypatch.setitem(pass_memory.PREFILL_TOKENS, "cpu", MOST)
    # without kernels, as where RUNNER_ATTENTION=sdpa is set, every slot is as long as the longest
    monkeypatch.setattr(
        kv_budget,
        "kv_capacity_tokens",
        lambda heads, *_: 40_000 if get_attention_kernels_if_supported(heads) is None else 1700,
    )
    engine.stats.peak_rows = 0
    passes.clear()
    done = {one.id: one for one in contract.complete_requests(engine, [*SHORT, LONG, GIVEN])}
    ours, theirs = ({key: one.answer.token_ids for key, one in some.items()} for some in (done, expected))
    assert ours == theirs
    assert done["given"].logprobs == pytest.approx(expected["given"].logprobs, abs=1e-5)
    assert engine.stats.peak_rows >= 20
    assert max(passes) <= MOST + len(SHORT), "no pass reads all of a long prompt"
    assert engine.stats.notes == []


def test_nobody_waits_for_a_long_prompt(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Active rows get a token in each step that reads a piece, or after it; one of two long prompts
    is cancelled."""
    expected = tokens_of(alone(engine, [*SHORT[:4], LONG]).values())
    monkeypatch.setitem(pass_memory.PREFILL_TOKENS, "cpu", MOST)
    with engine.open() as session:
        assert isinstance(session, LocalSession)
        for request in SHORT[:4]:
            session.submit(request)
        events: list[Event] = [*session.step(), *session.step()]
        session.submit(LONG)
        session.submit(Request("other", ids(700)))
        events += session.step()
        assert session.scheduler is not None
        running, places = session.scheduler, []
        assert [row.request.id for row in running.rows.reading] == ["long", "other"]
        session.cancel("other")
        while running.rows.active:
            places.append(running.rows.active[0].kv.places)
            events += session.step()
        assert running.rows.reading, "they are done before the long prompt is read"
        assert places[-1] - places[0] >= len(places) // 2 - 1
        while not session.is_idle:
            events += session.step()
    ended = {event.id: event for event in events if isinstance(event, Completion)}
    assert ended["other"].answer.finish_reason.value == "cancelled"
    assert {key: ended[key].answer.token_ids for key in expected} == expected


@pytest.mark.thorough
def test_a_long_beginning_is_read_in_pieces(
    engine: LocalEngine, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other rows decode meanwhile, and a prefix that is cancelled half-way leaves nothing
    behind."""
    beginning = ids(400)
    sharing = [Request(f"sharing {number}", beginning + ids(9), ignore_eos=True) for number in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(prefix_tree, "MIN_TOKENS", 10**9)
        expected = tokens_of(alone(engine, [*SHORT[:2], *sharing]).values())
    monkeypatch.setitem(pass_memory.PREFILL_TOKENS, "cpu", MOST)
    for is_cancelled in (True, False):
        with engine.open() as session:
            assert isinstance(session, LocalSession)
            for request in SHORT[:2]:
                session.submit(request)
            events: list[Event] = [*session.step()]
            passes.clear()
            for request in sharing:
                session.submit(request)
            events += [*session.step(), *session.step()]
            assert session.scheduler is not None
            prefixes, [row, *_] = session.scheduler.kv.prefixes, session.scheduler.rows.active
            assert row.kv.places > len(row.prompt), "it decodes between the pieces"
            assert 0 < prefixes.tokens < len(beginning)
            for request in sharing if is_cancelled else ():
                session.cancel(request.id)
            while not session.is_idle:
                events += session.step()
            assert prefixes.tokens == 0
        ended = {event.id: event.answer.token_ids for event in events if isinstance(event, Completion)}
        assert all(
            ended[key] == expected[key] for key in ended if not is_cancelled or not str(key).startswith("s")
        )
    assert max(passes) <= MOST + len(SHORT)
    assert engine.stats.shared_tokens >= 400 * len(sharing)
