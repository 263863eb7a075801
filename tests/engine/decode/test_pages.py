"""An engine whose steps read pages, by the reference of a CPU: its answers are those of
`generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from operations import Operations
from step_decoding import Decoding, Replayed, assert_close
from streams import complete, generated, requests
from transformers import AutoModelForCausalLM, Qwen2Config

from runner_base.dtypes import Dtype
from runner_engine.attention import device_attention, page_trial
from runner_engine.attention.interface import register_attention
from runner_engine.decode.passes import device_step
from runner_engine.decode.passes.device_step import DeviceDecodeStep, StepInputs
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.passes.step_graphs import RECORD_AT
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.shared_kv import SharedKv, create_kv_store
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

GREEDY = GenerationConfig(max_new_tokens=20)


@pytest.fixture
def engine_of(
    saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., LocalEngine]]:
    """Return a function that opens an engine with pages of 32 places."""
    monkeypatch.setenv("RUNNER_ATTENTION", "sdpa")
    monkeypatch.setattr("runner_engine.kv_cache.kv_store.native.load_kernels", lambda: None)
    monkeypatch.setattr(page_trial, "PAGE", 32)
    engines = []

    def opened(family: str = "llama", **keys: Any) -> LocalEngine:
        folder = saved_family(family, max_position_embeddings=512, **keys)
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
        engines.append(open_engine(make_spec(model=model, generation=GREEDY)))
        engines[-1].load()
        heads = engines[-1].find_kv_spec(engines[-1].loaded)
        assert heads is not None
        assert heads.page == 32
        assert heads.group > 1
        return engines[-1]

    yield opened
    for engine in engines:
        engine.close()


def by_generate(engine: LocalEngine, prompt: tuple[int, ...]) -> list[int]:
    ids = torch.tensor([prompt])
    out = engine.loaded.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


@pytest.mark.thorough
@pytest.mark.parametrize("keys", [{}, {"family": "mistral", "sliding_window": 40}], ids=["all", "window"])
def test_answers_are_those_of_generate(engine_of: Callable[..., LocalEngine], keys: dict[str, Any]) -> None:
    """Together, and three at a time: rows enter between others and leave; then with what the prompt
    cache has."""
    engine = engine_of(**keys)
    expected = generated(engine.loaded.model, engine.loaded.tokenizer)
    for most, recurring in ((None, False), (3, True), (None, True)):
        assert complete(engine, requests(recurring=recurring), most) == expected
    assert engine.stats.notes == []


@pytest.mark.thorough
def test_a_conversation_goes_on_in_pages(
    engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, seen = engine_of(), list[int]()
    call = DeviceDecodeStep.__call__

    def counted(self: DeviceDecodeStep, step: Any, *rest: Any) -> torch.Tensor:
        seen.append(sum(map(len, step.own.shared.values())))
        return call(self, step, *rest)

    monkeypatch.setattr(DeviceDecodeStep, "__call__", counted)
    first = tuple(range(3, 80))
    said = complete(engine, [Request(0, first, keep=True, ignore_eos=True)])[0]
    assert set(seen) == {0}
    follow = [(*first, *said, 7, 8, at) for at in (100, 101)]
    shared = engine.stats.shared_tokens
    answers = complete(engine, [Request(at, one, ignore_eos=True) for at, one in enumerate(follow)])
    assert engine.stats.shared_tokens - shared == 2 * (len(first) + len(said) - 1)
    assert max(seen) == 2 * (96 // 32), "each row's copy of the conversation is one of its own"
    for at, one in enumerate(follow):
        assert answers[at] == by_generate(engine, one)


@pytest.mark.thorough
def test_pages_that_all_rows_begin_with_are_read_once_where_that_is_less(
    engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a row of another beginning enters later, and where they end within a page."""
    engine, seen = engine_of(), set[tuple[int, int]]()
    read_once = DeviceDecodeStep._find_pages_shared_by_all_sequences

    def noted(self: DeviceDecodeStep, rows: Any, count: int) -> tuple[list[Prefix], int]:
        prefixes, pages = read_once(self, rows, count)
        seen.add((len(prefixes), pages))
        return prefixes, pages

    monkeypatch.setattr(DeviceDecodeStep, "_find_pages_shared_by_all_sequences", noted)
    ids = torch.randint(3, 250, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    trunk, branch = tuple(ids[:80]), tuple(ids[80:150])
    prompts = [(*trunk, *ids[200 + at : 204 + at]) for at in (0, 9)]
    prompts += [(*trunk, *branch, *ids[300 + at : 305 + at]) for at in range(0, 60, 10)]
    other = tuple(ids[160:190])
    asked = [Request(at, one, ignore_eos=True) for at, one in enumerate([*prompts, other])]
    sets = ((asked, 4), (asked[:8], None), (asked[2:8], None))
    expected = [complete(engine, *some) for some in sets]
    assert seen == {(0, 0)}, "that is little"
    monkeypatch.setattr(device_step, "MOST_READ", 1)
    assert [complete(engine, *some) for some in sets] == expected
    assert {(1, 2), (2, 4)} <= seen, (
        "two of the trunk's 80 positions in pages of 32; four of 150 with the branch"
    )
    assert expected[0] == {at: by_generate(engine, one) for at, one in enumerate([*prompts, other])}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("failing", [1, 4, 12], ids=["a prefix", "prompts", "a step"])
def test_a_shortage_of_memory_changes_no_answer(
    engine_of: Callable[..., LocalEngine], failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are given up with all else, and made again."""
    engine = engine_of()
    expected = complete(engine, requests())
    forward, passes = Forward._run_model, 0

    def fails_twice(self: Forward, *arguments: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes in (failing, failing + 1):  # a step ahead of the host is tried once more, without a note
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *arguments)

    monkeypatch.setattr(Forward, "_run_model", fails_twice)
    assert complete(engine, requests()) == expected
    assert all(shortage.ran_out for shortage in engine.stats.row_shortages)
    assert engine.stats.row_shortages


def operations_of(prefixes: int, page: int, layers: int = 3) -> int:
    """Count the operations of a step of Qwen2.5-0.5B's layers on a GPU, by tensors without
    numbers."""
    config = Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_attention_heads=14, num_key_value_heads=2,
        num_hidden_layers=layers, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    heads = KvCacheSpec(layers, 2, 7, 64, torch.bfloat16, torch.device("meta"), by_sdpa=True, page=page)
    deepest: Prefix | None = None
    for _ in range(prefixes):
        deepest = Prefix([1] * 300, deepest, kv=SharedKv.allocate(heads, 300, None))
    rows = [
        TokenSequence(Request(0, ()), [1] * (300 * prefixes + 10), "", 50, kv=SequenceKv(deepest), tokens=[1])
        for _ in range(4)
    ]
    own = create_kv_store(heads, None, [512] * 4, [deepest] * 4)
    assert isinstance(own, SlotStore)
    step = DeviceDecodeStep(model, heads)
    with Operations() as seen:
        step(StepInputs(own, rows, []), [1] * 4, [300 * prefixes + 9] * 4)
    return seen.kernels.total()


def test_prefixes_add_no_operation_to_a_step_that_reads_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_attention, "_is_supported_by_sdpa", lambda *_: True)
    monkeypatch.setattr(device_attention, "has_flash_attention", lambda _: True)
    register_attention()
    apart, in_pages = ([operations_of(count, page) for count in (0, 1, 3)] for page in (0, 256))
    assert len(set(in_pages)) == 1
    assert in_pages[0] - apart[0] <= 8, "places by the table, and the table itself, once a step"
    assert apart[1] - apart[0] == 10 * 3, "in each of three layers"
    assert apart[2] - apart[1] == 2 * 3 * 3


def test_recorded_steps_depend_on_the_number_of_rows_alone(pair: Callable[..., list[Decoding]]) -> None:
    """They stay when a prefix is read no more, and go when the pages move."""
    usual, ours = pair(page=16)
    step = ours.forward.device_step
    assert step is not None
    assert isinstance(ours.own, PagedSlots)
    step.graphs.record = Replayed
    for _ in range(RECORD_AT + 1):
        assert_close(ours.step(), usual.step())
    [recording] = step.graphs.recordings.values()
    for decoding in (usual, ours):
        decoding.leave(0)  # of two rows on the branch
    for _ in range(RECORD_AT):
        assert_close(ours.step(), usual.step())
    assert len(step.graphs.recordings) == 2
    for decoding in (usual, ours):
        decoding.leave(1)  # the branch is read no more
    replayed = step.graphs.replayed
    for _ in range(2):
        assert_close(ours.step(), usual.step())
    assert step.graphs.replayed == replayed + 2
    assert recording in step.graphs.recordings.values()
    for decoding in (usual, ours):
        decoding.own.ensure_capacity(200, 400)
    assert_close(ours.step(), usual.step())
    assert not step.graphs.recordings
