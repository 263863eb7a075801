from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_engines import open_engine
from raising import raises

from runner import engines
from runner.config.model import StubConfig
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.engines.kinds import get_model_kind
from runner.run import check_job_before_model_loading
from runner_base.errors import TrackingError
from runner_base.result import FinishReason
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Delta, Message, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache


def test_stub_echoes_the_head_of_the_prompt(make_config: Callable[..., RunnerConfig]) -> None:
    engine = open_engine(make_config(model=StubConfig()))
    prompt = "p" * 200
    first, second = contract.complete_requests(
        engine, [Request(3, prompt), Request(4, (Message("user", "How many?"),))]
    )
    assert first.id == 3
    assert first.answer.text == "[STUB_GENERATION]\n" + "p" * 120 + "..."
    assert second.answer.text == "[STUB_GENERATION]\nHow many?..."
    assert engine.stats.prefill_tokens == 3


def test_stub_says_that_it_has_no_kv_cache(make_config: Callable[..., RunnerConfig]) -> None:
    """A grid over formats of the KV cache can be tried out with the stub, as one over quantizations
    can."""
    plain, eight = (
        open_engine(make_config(model=StubConfig(), generation=GenerationConfig(kv_cache=one))).load().facts
        for one in (KvCache.as_model, KvCache.int8)
    )
    assert "kv_cache" not in plain
    assert "generation.kv_cache=int8 has no effect" in eight["kv_cache"]


def test_stub_keeps_to_the_limit(make_config: Callable[..., RunnerConfig]) -> None:
    engine = open_engine(make_config(model=StubConfig()))
    prompt = " ".join("word" for _ in range(20))
    (cut,) = contract.complete_requests(engine, [Request(0, prompt, max_new_tokens=3)])
    (long,) = contract.complete_requests(engine, [Request(0, prompt, max_new_tokens=500, ignore_eos=True)])
    assert (len(cut.answer.token_ids), cut.answer.finish_reason) == (3, "length")
    assert len(long.answer.token_ids) == 500


def test_stub_serves_all_that_can_be_asked(make_config: Callable[..., RunnerConfig]) -> None:
    engine = open_engine(make_config(model=StubConfig()))
    with engine.open() as session:
        session.submit(Request("three", "Hi", n=3, deltas=True))
        session.submit(Request("scored", "Hi", continuation="a b c", top_logprobs=2))
        session.submit(Request("gone", "Hi"))
        session.cancel("gone")
        events = session.step()
        ended = {event.id: event.answer.finish_reason for event in events if isinstance(event, Completion)}
        assert ended["gone"] is FinishReason.cancelled
        events += session.step()
        assert session.is_idle
    texts = [event.text for event in events if isinstance(event, Delta)]
    done = {(event.id, event.choice): event for event in events if isinstance(event, Completion)}
    assert texts == [done["three", choice].answer.text for choice in range(3)]
    scored = done["scored", 0]
    assert (len(scored.answer.token_ids), scored.logprobs, scored.answer.text) == (3, [-1.0] * 3, "")


def test_what_is_wrong_elsewhere_is_said_before_anything_is_loaded(
    make_config: Callable[..., RunnerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of MLflow, which opens beside the imports: a store's error does not wait for a long
    load."""

    def store_is_gone() -> None:
        raise TrackingError("the store is gone", code="unreachable")

    config = make_config(model=StubConfig())
    monkeypatch.setattr(
        type(get_model_kind(config.model)), "open_engine", lambda *_: pytest.fail("nothing is to be loaded")
    )
    engine = engines.create_lazy_engine(resolve_job(config), check_others=store_is_gone)
    for use in (engine.load, engine.open, engine.load):  # each time, whoever comes first
        with raises(TrackingError, "unreachable"):
            use()


def test_what_is_wrong_elsewhere_is_said_after_a_short_load(
    make_config: Callable[..., RunnerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that MLflow opens beside the load, too."""
    steps: list[str] = []

    def store_is_gone() -> None:
        steps.append("checked")
        raise TrackingError("the store is gone", code="unreachable")

    config = make_config(model=StubConfig())
    kind = type(get_model_kind(config.model))
    own = kind.open_engine

    def open_engine(*arguments: Any) -> Any:
        steps.append("built")
        return own(*arguments)

    monkeypatch.setattr(kind, "open_engine", open_engine)
    monkeypatch.setattr(kind, "loads_quickly", lambda *_: True)
    engine = engines.create_lazy_engine(resolve_job(config), check_others=store_is_gone)
    for use in (engine.load, engine.open, engine.load):
        with raises(TrackingError, "unreachable"):
            use()
    assert steps == ["built", *["checked"] * 3]


def test_a_stub_needs_nothing(make_config: Callable[..., RunnerConfig]) -> None:
    config = make_config()
    predicted = get_model_kind(config.model).predict_memory(resolve_job(config), (4, 16, 8))
    assert predicted is not None
    assert get_model_kind(config.model).predict_resources(resolve_job(config)).mib == 0
    assert predicted.total_mib == 0


def test_nothing_but_its_name_identifies_a_stub(
    make_config: Callable[..., RunnerConfig], tmp_path: Path
) -> None:
    stub = make_config()
    assert get_model_kind(stub.model).fingerprint(resolve_job(stub), tmp_path / "h.json") == {"model": "stub"}


def test_what_loads_nothing_needs_nothing(make_config: Callable[..., RunnerConfig]) -> None:
    assert check_job_before_model_loading(resolve_job(make_config(model=StubConfig()))) == []
