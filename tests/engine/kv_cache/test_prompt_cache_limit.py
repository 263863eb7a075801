"""Memory of earlier prompts: as much as the key allows, in chunks that are given back when sequences need memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec, open_engine
from streams import PROMPTS, complete, requests

from runner_base import MIB
from runner_base.dtypes import Dtype
from runner_engine.checkpoints.prompt_cache_size import PROMPT_SHARES
from runner_engine.decode import kv_budget
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache import block_chunks, prefix_tree
from runner_engine.kv_cache.block_chunks import compute_block_nbytes
from runner_engine.local import engine as local_engine
from runner_engine.local.engine import LocalEngine
from runner_engine.memory import memory_guard
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

LONG = 32_768
Make = Callable[..., LocalEngine]
SMALL_CHUNK = 4  # blocks


@pytest.fixture
def make_engine(saved_family: Callable[..., Path]) -> Iterator[Make]:
    opened = []

    def make(
        family: str = "llama",
        dtype: Dtype = Dtype.float32,
        keys: dict[str, int] | None = None,
        **generation: object,
    ) -> LocalEngine:
        folder = saved_family(family, **({"max_position_embeddings": 512} | (keys or {})))
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=dtype)
        settings = GenerationConfig(**({"max_new_tokens": 20} | generation))  # type: ignore[arg-type]
        opened.append(open_engine(make_spec(model=model, generation=settings)))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def random_prompts(count: int, tokens: int) -> list[tuple[int, ...]]:
    chance = random.Random(count)
    return [tuple(chance.randrange(4, 250) for _ in range(tokens)) for _ in range(count)]


def ask(engine: LocalEngine, prompts: list[tuple[int, ...]]) -> tuple[dict[object, list[int]], int]:
    """Return the answers, and how many tokens of the prompts were computed."""
    before = engine.stats.prefill_tokens
    asked = [Request(at, ids, recurring=True, ignore_eos=True) for at, ids in enumerate(prompts)]
    return complete(engine, asked, 1), engine.stats.prefill_tokens - before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("mistral", Dtype.bfloat16),  # its window makes 32k tokens quick to read
        pytest.param("mistral", Dtype.float32, marks=pytest.mark.thorough),
        pytest.param("llama", Dtype.float32, marks=pytest.mark.thorough),
    ],
)
def test_eight_prompts_of_32k_tokens_are_read_once(make_engine: Make, family: str, dtype: Dtype) -> None:
    prompts = random_prompts(8, LONG)
    keys = {"max_position_embeddings": LONG + 32, "num_key_value_heads": 2, "num_hidden_layers": 2}
    if dtype is Dtype.bfloat16:
        keys["num_hidden_layers"] = 4
    if family == "mistral":
        keys["sliding_window"] = 64
    answers = []
    for limit_mib in (None, 256):
        engine = make_engine(family, dtype, keys, max_new_tokens=4, prompt_cache_mib=limit_mib)
        first, all_of_it = ask(engine, prompts)
        second, again = ask(engine, prompts)
        answers += [first, second]
        assert all_of_it == 8 * LONG
        assert again == (8 if limit_mib is None else all_of_it), (
            "of each prompt the last token, or everything"
        )
        assert engine.prompts.tokens == (8 * LONG if limit_mib is None else pytest.approx(126_000, rel=0.01))
        assert engine.stats.kept_bytes <= engine.stats.max_kept_bytes
        if limit_mib is not None:
            assert engine.stats.max_kept_bytes == limit_mib * MIB
            assert ask(engine, prompts[-1:]) == ({0: second[7]}, 1), (
                "the prompt that was used last is still there"
            )
        engine.close()
    assert all(one == answers[0] for one in answers)


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


def test_memory_grows_up_to_the_limit_and_no_further(make_engine: Make) -> None:
    """Each round has 16 MiB of new prompts. The control of the bound is a limit above what comes."""
    growth = {}
    for limit_mib in (16, 512):
        engine = make_engine(
            keys={"max_position_embeddings": 4096}, max_new_tokens=1, prompt_cache_mib=limit_mib
        )
        rounds = [random_prompts(8 + at, 2048) for at in range(6)]
        for prompts in rounds[:2]:
            ask(engine, prompts)
        before = resident_mib()
        for prompts in rounds[2:]:
            ask(engine, prompts)
            assert engine.prompts.nbytes <= limit_mib * MIB
        growth[limit_mib] = resident_mib() - before
        engine.close()
    assert growth[16] < 12, growth
    assert growth[512] > 60, growth


def test_free_memory_is_the_limit_unless_the_key_is_set(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "free_mib", lambda device: 1000.0)
    engine = make_engine()
    engine.load()
    assert engine.prompts.max_nbytes == engine.stats.max_kept_bytes == 1000 * PROMPT_SHARES["cpu"] * MIB
    monkeypatch.setattr(local_engine, "free_mib", lambda device: 2000.0)
    complete(engine, requests(recurring=True))
    assert engine.stats.max_kept_bytes == 1000 * PROMPT_SHARES["cpu"] * MIB, (
        "it does not grow while the engine runs"
    )


def test_nothing_is_kept_with_0(make_engine: Make) -> None:
    engine = make_engine(prompt_cache_mib=0)
    kinds: tuple[dict[str, Any], ...] = ({"recurring": True}, {"keep": True})
    for kind in kinds:
        asked = requests(**kind)[-2:]
        complete(engine, asked)
        before = engine.stats.prefill_tokens
        complete(engine, asked)
        assert engine.stats.prefill_tokens - before == sum(len(engine.encode(one)[1]) for one in asked)
    assert (engine.prompts.tokens, engine.conversations.tokens, engine.stats.kept_bytes) == (0, 0, 0)


def test_conversations_stay_within_the_limit(make_engine: Make) -> None:
    engine = make_engine()
    long = Request(0, random_prompts(1, 300)[0], keep=True)
    complete(engine, [long])
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    assert engine.conversations.nbytes == engine.stats.kept_bytes > 300 * heads.bytes_per_token
    engine.conversations.clear()
    engine.conversations.max_nbytes = 299 * heads.bytes_per_token
    complete(engine, [long])
    assert engine.conversations.tokens == 0


@pytest.mark.parametrize("kv_cache", ["as_model", "int8", "int4"])
@pytest.mark.parametrize(
    "by_torch", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["kernels", "torch"]
)
def test_a_smaller_cache_has_the_prompts_that_were_used_last(
    make_engine: Make, kv_cache: str, by_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_torch:
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    monkeypatch.setattr(block_chunks, "MIN_CHUNK_BLOCKS", SMALL_CHUNK)
    monkeypatch.setattr(block_chunks, "MAX_CHUNKS", 100)
    monkeypatch.setattr(prefix_tree, "MIN_TOKENS", 10**9)
    engine = make_engine(kv_cache=kv_cache)
    engine.load()
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    engine.prompts.max_nbytes = 100 * SMALL_CHUNK * compute_block_nbytes(heads)
    prompts = random_prompts(6, 200)
    expected, _ = ask(engine, prompts)
    assert ask(engine, [prompts[0], prompts[3]])[1] == 2  # used last, in chunks that are far apart
    assert ask(engine, prompts) == (expected, 6)
    assert ask(engine, [prompts[0], prompts[3]])[1] == 2
    per_prompt = engine.prompts.tokens // 6
    assert not engine.prompts.shrink(10**9)
    assert engine.prompts.shrink(2 * per_prompt + 3 * LANES * SMALL_CHUNK)
    assert 2 * per_prompt <= engine.prompts.tokens <= engine.prompts.resident_tokens
    assert engine.prompts.resident_tokens <= 2 * per_prompt + 3 * LANES * SMALL_CHUNK
    assert ask(engine, [prompts[0], prompts[3]]) == ({0: expected[0], 1: expected[3]}, 2)
    assert ask(engine, prompts)[0] == expected, "and it can grow again"
    assert ask(engine, prompts) == (expected, 6)
    assert engine.prompts.shrink(LANES)
    assert (engine.prompts.tokens, engine.prompts.resident_tokens, engine.prompts.nbytes) == (0, 0, 0)
    assert ask(engine, prompts)[0] == expected


def test_sequences_that_need_memory_get_that_of_old_prompts(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget of sequences counts earlier prompts as free, and a long sequence takes only its share."""
    monkeypatch.setattr(block_chunks, "MIN_CHUNK_BLOCKS", SMALL_CHUNK)
    monkeypatch.setattr(block_chunks, "MAX_CHUNKS", 1000)
    monkeypatch.setattr(kv_budget, "kv_capacity_tokens", lambda *_: 2000)  # 3000 with earlier prompts
    engine = make_engine(keys={"max_position_embeddings": 4096}, max_new_tokens=1, prompt_cache_mib=4)
    small, [long] = random_prompts(14, 160), random_prompts(1, 1600)
    expected, _ = ask(engine, small)
    assert engine.prompts.tokens == 14 * 160
    sizes = []
    monkeypatch.setattr(
        memory_guard.MemoryGuard, "check", lambda *_: sizes.append(engine.prompts.resident_tokens)
    )
    answer = complete(engine, [Request(0, long)])
    assert min(sizes[1:]) >= 1000, "not everything was dropped"
    assert engine.prompts.resident_tokens + 1600 <= 3000
    assert ask(engine, small[-3:]) == ({at: expected[11 + at] for at in range(3)}, 3), (
        "used last: still there"
    )
    assert ask(engine, small)[0] == expected
    assert complete(engine, [Request(0, long)]) == answer


def test_a_process_short_of_memory_gives_back_earlier_prompts_before_it_stops_sequences(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    expected = complete(engine, requests(recurring=True))
    kept = engine.prompts.tokens
    assert kept > 0

    def free_mib(device: object) -> float:
        return 10_000.0 if engine.prompts.tokens <= kept // 4 else 1.0

    monkeypatch.setattr(memory_guard, "free_mib", free_mib)
    monkeypatch.setattr(memory_guard, "LOOK_EVERY_S", 0.0)
    assert complete(engine, requests()) == expected
    assert engine.prompts.tokens <= kept // 4
    assert engine.stats.row_shortages == []
    assert len(PROMPTS) == len(expected)


def test_blocks_that_move_while_a_sequence_enters_are_copied_from_their_new_place(
    make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_chunks, "MIN_CHUNK_BLOCKS", SMALL_CHUNK)
    monkeypatch.setattr(block_chunks, "MAX_CHUNKS", 1000)
    monkeypatch.setattr(kv_budget, "kv_capacity_tokens", lambda *_: 2000)
    engine = make_engine(keys={"max_position_embeddings": 4096}, prompt_cache_mib=4)
    prompts = random_prompts(14, 160)
    expected, _ = ask(engine, prompts)
    long = Request(99, random_prompts(1, 1500)[0])
    last = Request(13, prompts[13], recurring=True, ignore_eos=True)
    before = engine.stats.prefill_tokens
    answers = complete(engine, [long, last], 2)
    assert answers[13] == expected[13]
    assert engine.stats.prefill_tokens - before == 1501
    assert engine.prompts.tokens < 14 * 160
