"""What is before a window is given back while rows grow: answers are those of generate, and the
memory is what is said."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec, open_engine
from streams import complete, generated
from transformers import AutoModelForCausalLM

from runner_base.dtypes import Dtype
from runner_engine.checkpoints.kv_size import compute_max_window_positions
from runner_engine.decode.kv_budget import KvBudget
from runner_engine.kv_cache import (
    KvCacheSpec,
    create_kv_store,
    get_attention_kernels_if_supported,
    kv_arenas,
    window_memory,
)
from runner_engine.kv_cache.sliding_windows import Window
from runner_engine.kv_cache.window_memory import PAGE, FreedPositions
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig
from tools import families

WINDOW, NEW_TOKENS = 32, 40
# several windows long, as are the prompts behind it
SHARED = [30 + place * 7 % 90 for place in range(210)]
LONG = [100 + place * 11 % 130 for place in range(333)]
PROMPTS = [[*SHARED, *LONG[:190]], [*SHARED, *LONG[:100], *LONG[7:77]], [*SHARED, 9], LONG, [5]]
# else a tiny Gemma repeats its last token for ever
LIVELY = {"query_pre_attn_scalar": 8, "tie_word_embeddings": False}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {}, "gemma3_text": LIVELY | MIXED, "gpt_oss": MIXED, "cohere2": MIXED, "olmo3": MIXED,
}  # fmt: skip
HEADS = KvCacheSpec(3, 2, 1, 64, torch.bfloat16, torch.device("cpu"), (Window(128), None, Window(128)))


def as_ids(prompt: list[int]) -> dict[str, list[int]]:
    """As a tokenizer, for prompts that are token ids already."""
    return {"input_ids": prompt}


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LocalEngine]]:
    engines = []

    def make(family: str, **keys: Any) -> LocalEngine:
        sizes = {"sliding_window": WINDOW, "max_position_embeddings": 1024} | FAMILIES[family]
        monkeypatch.setitem(families.OVERRIDES, family, families.OVERRIDES.get(family, {}) | sizes)
        families.build(family, tmp_path / family)
        model = LocalModelConfig(name=str(tmp_path / family), device="cpu", dtype=Dtype.float32)
        engines.append(
            open_engine(
                make_spec(model=model, generation=GenerationConfig(max_new_tokens=NEW_TOKENS, **keys))
            )
        )
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def expected_of(engine: LocalEngine, prompts: list[list[int]] = PROMPTS) -> dict[Any, list[int]]:
    """Return the answers of generate."""
    model = AutoModelForCausalLM.from_pretrained(engine.spec.model.name, dtype="float32").eval()
    return generated(model, as_ids, prompts, NEW_TOKENS)  # type: ignore[arg-type]


def asked(prompts: list[list[int]] = PROMPTS, **keys: Any) -> list[Request]:
    return [Request(number, tuple(ids), **keys) for number, ids in enumerate(prompts)]


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ends up to which rows and prefixes have given memory back."""
    ends: list[int] = []
    real = FreedPositions._free_pages

    def free(self: FreedPositions, size: int, end: int) -> None:
        ends.append(end)
        real(self, size, end)

    monkeypatch.setattr(FreedPositions, "_free_pages", free)
    return ends


@pytest.mark.thorough
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_several_windows_answer_as_generate(
    engine_of: Callable[..., LocalEngine], family: str, freed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared prefixes, prompts in pieces, decoding beyond, rows that enter later, and a shortage of
    memory."""
    engine = engine_of(family)
    expected = expected_of(engine)
    assert complete(engine, asked()) == expected
    assert complete(engine, asked(), 2) == expected
    assert engine.stats.shared_tokens > 0
    assert max(freed) > 2 * WINDOW
    monkeypatch.setattr(window_memory, "REWOUND", 0)
    real, passes = KvBudget.check_memory, iter(range(1000))

    def check(self: KvBudget, rows: int) -> None:
        if next(passes) == 20:
            raise MemoryError("as if")
        real(self, rows)

    monkeypatch.setattr(KvBudget, "check_memory", check)
    assert complete(engine, asked()) == expected
    assert any(shortage.ran_out for shortage in engine.stats.row_shortages)


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_what_is_freed_matters(
    engine_of: Callable[..., LocalEngine], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freed by a window too far, the same rows answer otherwise."""
    engine = engine_of(family)
    expected = expected_of(engine)
    real = FreedPositions._free_pages
    monkeypatch.setattr(
        FreedPositions, "_free_pages", lambda self, size, end: real(self, size, end + 3 * size)
    )
    assert complete(engine, asked()) != expected


@pytest.mark.thorough
def test_scores_are_those_of_a_row_that_keeps_everything(
    engine_of: Callable[..., LocalEngine], freed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of("gemma3_text")
    requests = [
        Request(number, tuple(ids[:60]), continuation=tuple(ids[60:]))
        for number, ids in enumerate(PROMPTS[:4])
    ]
    done = [one.logprobs for one in contract.complete_requests(engine, requests)]
    assert freed
    monkeypatch.setattr(kv_arenas, "can_free_positions", lambda _: False)
    freed.clear()
    assert [one.logprobs for one in contract.complete_requests(engine, requests)] == done
    assert not freed


@pytest.mark.thorough
@pytest.mark.parametrize("shared", [len(SHARED), 40], ids=["as long", "shorter"])
def test_a_conversation_begins_where_all_its_keys_are(
    engine_of: Callable[..., LocalEngine], shared: int
) -> None:
    """A kept row keeps all of its own; what it has of a prefix is used whole, or not at all."""
    engine = engine_of("gemma3_text")
    first = [[*SHARED, *LONG[:50]], [*SHARED, *LONG[9:60]]]
    answers = complete(engine, asked(first, keep=True))
    later = [[*first[0], *answers[0], 7, 8, 9], [*SHARED[:shared], *LONG[100:300]], [*first[1], 11, 12]]
    for prompt in later:
        assert complete(engine, asked([prompt], keep=True)) == expected_of(engine, [prompt])


@pytest.mark.thorough
def test_what_a_server_keeps_of_prompts_is_whole(engine_of: Callable[..., LocalEngine]) -> None:
    engine = engine_of("gemma3_text")
    prompts = [LONG, [*LONG[:200], 5, 6, 7]]
    expected = expected_of(engine, prompts)
    for _ in range(2):
        for number, prompt in enumerate(prompts):
            assert complete(engine, asked([prompt], recurring=True))[0] == expected[number]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kv_cache", [KvCache.as_model, KvCache.int8, KvCache.k8v4], ids=str)
def test_an_arena_takes_the_memory_that_is_said(kv_cache: KvCache) -> None:
    """What the system says of its pages: a layer with a window keeps that and a few more places,
    others keep all."""
    heads = replace(HEADS, kv_cache=kv_cache)
    own = create_kv_store(heads, get_attention_kernels_if_supported(heads), [2048])
    assert isinstance(own, kv_arenas.KvArenaStore)
    rows = torch.randn(2048, 2, 64, dtype=torch.bfloat16)
    most = 0
    for place in range(0, 2048, 16):
        slots, places = (
            torch.zeros(16, dtype=torch.int32),
            torch.arange(place, place + 16, dtype=torch.int32),
        )
        for layer in range(3):
            own.write(layer, rows[place : place + 16], rows[place : place + 16], slots, places)
        own.set_num_filled(0, place + 16)
        resident = [sum(map(_resident, own.get_slot_tensors(0)[layer::3])) for layer in range(3)]
        most = max(most, resident[0])
        # each head ends within a page, and keys and values end in other ones
        assert abs(sum(resident) - own.resident_tokens * heads.bytes_per_token) <= 14 * PAGE
    place_bytes = sum(heads.get_position_nbytes(0))
    whole = 2 * 2048 * place_bytes
    assert abs(resident[1] - whole) <= 4 * PAGE
    said = 2 * compute_max_window_positions(128, 2048) * place_bytes
    assert said * 0.6 <= most <= said + 4 * PAGE
    read = own.read(0, 0, 2048)[0][:, -128:]
    exact = own.read(1, 0, 2048)[0][:, -128:]
    assert torch.equal(read, exact)
    assert own.count_freed_tokens(0) > 1000


def test_a_row_that_is_kept_whole_frees_nothing() -> None:
    own = create_kv_store(HEADS, get_attention_kernels_if_supported(HEADS), [2048])
    own.disable_freeing(0)
    own.set_num_filled(0, 2048)
    assert own.count_freed_tokens(0) == 0
    assert own.resident_tokens == 2048


def _resident(tensor: torch.Tensor) -> int:
    """Return how many bytes of a tensor's pages are in memory."""
    first = tensor.data_ptr() // PAGE * PAGE
    pages = -(-(tensor.data_ptr() + tensor.nbytes - first) // PAGE)
    seen = (ctypes.c_ubyte * pages)()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(first), ctypes.c_size_t(pages * PAGE), seen) == 0
    return sum(page & 1 for page in seen) * PAGE
