"""Text while it is generated, requests that are cancelled, and conversations that are continued."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from listening import complete_first, complete_with_deltas
from opening import make_spec, open_engine

from runner_base.dtypes import Dtype
from runner_base.result import FinishReason
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.prefix_tree import MAX_CONVERSATIONS, ConversationCache
from runner_engine.kv_cache.shared_kv import SharedKv
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Delta, Event, Message, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig

PROMPT = (
    "Once upon a time, in a land far away, there lived a king who counted his sheep every single evening. "
)


@pytest.fixture(params=[Attention.auto, Attention.sdpa], ids=["stream", "plain"])
def engine(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[LocalEngine]:
    model = LocalModelConfig(name=str(tiny_llama), attention=request.param)
    one = open_engine(make_spec(model=model, generation=GenerationConfig(max_new_tokens=40)))
    yield one
    one.close()


def listen(engine: LocalEngine, requests: list[Request]) -> tuple[dict[Any, str], list[Completion]]:
    heard: dict[Any, str] = {request.id: "" for request in requests}

    def text(delta: Delta) -> None:
        assert delta.text
        heard[int(delta.id)] += delta.text

    return heard, complete_with_deltas(engine, requests, text)


def test_what_is_heard_is_what_is_said(engine: LocalEngine) -> None:
    heard, done = listen(engine, [Request(index, PROMPT[index:], ignore_eos=True) for index in range(3)])
    assert len(done) == 3
    for completion in done:
        assert heard[completion.id] == completion.answer.text
        assert len(completion.answer.text) > 10


def test_no_part_of_a_stop_text_is_heard(engine: LocalEngine) -> None:
    (whole,) = contract.complete_requests(engine, [Request(0, PROMPT, ignore_eos=True)])
    stop = whole.answer.text[6:9]
    heard, (done,) = listen(engine, [Request(0, PROMPT, stop=(stop,))])
    assert done.answer.finish_reason is FinishReason.stop
    assert heard[0] == done.answer.text == whole.answer.text[: whole.answer.text.index(stop)]


def test_half_a_character_is_held_back(engine: LocalEngine) -> None:
    engine.load()
    tokenizer = engine.loaded.tokenizer
    tokens, stopping = tokenizer("né", add_special_tokens=False)["input_ids"], Stopping(tokenizer)
    assert stopping.build_unsent_text_deltas(
        TokenSequence(Request(0, ""), [], "", 9, tokens=tokens[:-1])
    ) == [Delta(0, 0, "n")]
    assert stopping.build_unsent_text_deltas(
        TokenSequence(Request(0, ""), [], "", 9, tokens=tokens, sent=1)
    ) == [Delta(0, 0, "é")]


@pytest.mark.sampled(1)
def test_who_has_enough_ends_one_and_no_other(engine: LocalEngine) -> None:
    requests = [Request(0, PROMPT, ignore_eos=True), Request(1, PROMPT + "And then? ", ignore_eos=True)]
    alone = {done.id: done for done in contract.complete_requests(engine, requests)}
    heard, done = "", {}
    with engine.open() as session:

        def listen(events: list[Event]) -> None:
            nonlocal heard
            for event in events:
                if isinstance(event, Completion):
                    done[event.id] = event
                elif event.id == 0:
                    heard += event.text
                    if len(heard) >= 5:
                        session.cancel(0)

        contract.run_requests(session, [replace(request, deltas=True) for request in requests], listen)
    assert done[0].answer.finish_reason is FinishReason.cancelled
    assert done[0].answer.text == heard
    assert alone[0].answer.text.startswith(heard)
    assert len(done[0].answer.token_ids) < len(alone[0].answer.token_ids)
    assert done[1].answer.token_ids == alone[1].answer.token_ids


@pytest.mark.thorough
def test_closing_early_cancels_and_leaves_the_engine_usable(engine: LocalEngine) -> None:
    requests = [
        Request(index, PROMPT[index:], max_new_tokens=4 + 9 * index, ignore_eos=True) for index in range(4)
    ]
    whole = {done.id: done.answer.token_ids for done in contract.complete_requests(engine, requests)}
    assert len(complete_first(engine, requests, 1)) < len(requests)
    assert engine.stats.rows_alive == 0
    assert {done.id: done.answer.token_ids for done in contract.complete_requests(engine, requests)} == whole


def test_steps_tell_how_far_it_is(engine: LocalEngine) -> None:
    seen: list[float] = []
    requests = [Request(index, PROMPT[index:], ignore_eos=True, max_new_tokens=10) for index in range(3)]
    contract.complete_requests(engine, requests, listener=lambda _: seen.append(engine.stats.under_way))
    assert len(seen) >= 10
    assert engine.stats.under_way == 0


def turns(engine: LocalEngine, keep: bool) -> tuple[list[list[int]], list[int]]:
    """Three turns of a chat; the tokens of each answer, and how many prompt tokens each turn
    computed."""
    conversation: list[Message] = []
    answers, computed = [], []
    for turn in range(3):
        conversation.append(Message("user", f"{PROMPT}This is turn {turn}."))
        before = engine.stats.prefill_tokens
        (done,) = contract.complete_requests(
            engine, [Request(turn, tuple(conversation), keep=keep, ignore_eos=True)]
        )
        computed.append(engine.stats.prefill_tokens - before)
        answers.append(done.answer.token_ids)
        conversation.append(Message("assistant", done.answer.text))
    return answers, computed


@pytest.mark.thorough
def test_the_next_turn_computes_only_what_is_new(embedded: LocalModelConfig) -> None:
    def chat(keep: bool) -> tuple[list[list[int]], list[int]]:
        engine = open_engine(make_spec(model=embedded, generation=GenerationConfig(max_new_tokens=12)))
        try:
            return turns(engine, keep)
        finally:
            engine.close()

    anew, all_tokens = chat(False)
    continued, new_tokens = chat(True)
    assert continued == anew
    assert new_tokens[0] == all_tokens[0]
    assert new_tokens[2] < 1.5 * all_tokens[0] < all_tokens[2]


def nothing_computed() -> SharedKv:
    return SharedKv.allocate(KvCacheSpec(0, 1, 1, 16, torch.float32, torch.device("cpu")), 0, None)


def tokens_of(cache: ConversationCache) -> int:
    return sum(len(one.tokens) for one in cache._conversations)


def test_no_more_is_kept_than_there_is_room_for() -> None:
    cache = ConversationCache()
    for number in range(MAX_CONVERSATIONS + 3):
        cache.add_conversation([number] * 100, nothing_computed(), budget_tokens=4000)
    assert tokens_of(cache) == 100 * MAX_CONVERSATIONS
    assert cache.find_cached_prefix([0] * 100) is None  # it made room
    cache.add_conversation([99] * 700, nothing_computed(), budget_tokens=4000)
    assert tokens_of(cache) == 1000
    cache.add_conversation([98] * 1001, nothing_computed(), budget_tokens=4000)
    assert cache.find_cached_prefix([98] * 1001) is None
    prefix = cache.find_cached_prefix([*[99] * 60, 1, 2])
    assert prefix is not None
    assert prefix.tokens == [99] * 60
    assert cache.find_cached_prefix([99] * 20) is None  # too little to be worth it


def test_a_longer_conversation_takes_the_place_of_its_beginning() -> None:
    cache = ConversationCache()
    cache.add_conversation([1] * 50, nothing_computed(), 10_000)
    cache.add_conversation([*[1] * 50, 2, 3], nothing_computed(), 10_000)
    assert tokens_of(cache) == 52


@pytest.fixture
def embedded() -> Any:
    return LocalModelConfig(name="embedded", dtype=Dtype.float32)
