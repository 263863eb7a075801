"""Prompts that come again: their keys and values are copied, and the answers stay those of
`generate`."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec, open_engine
from streams import PROMPTS, complete, generated, requests
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kernels import c_interface, native
from runner_engine.kv_cache import prefix_tree
from runner_engine.kv_cache.block_chunks import compute_block_nbytes
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

GREEDY = GenerationConfig(max_new_tokens=20)


@pytest.fixture
def engine(saved_family: Callable[..., Path]) -> Iterator[LocalEngine]:
    folder = saved_family("llama", max_position_embeddings=512)
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
    one = open_engine(make_spec(model=model, generation=GREEDY))
    yield one
    one.close()


def computed(
    engine: LocalEngine, asked: list[Request], batch_size: int | None = None
) -> tuple[dict[int, list[int]], int]:
    """The answers, and how many tokens of the prompts were computed for them."""
    before = engine.stats.prefill_tokens
    return complete(engine, asked, batch_size), engine.stats.prefill_tokens - before


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("by_torch", [False, True], ids=["kernels", "torch"])
def test_what_comes_again_is_not_computed_again(
    engine: LocalEngine, by_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_torch:
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    folder = engine.spec.model.name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    expected = generated(model, AutoTokenizer.from_pretrained(folder))
    asked = requests(recurring=True)
    with monkeypatch.context() as patch:
        patch.setattr(prefix_tree, "MIN_TOKENS", 10**9)  # nothing is read for several rows at once
        first, all_of_it = computed(engine, asked, 1)
        again, little = computed(engine, asked, 1)
        mixed, _ = computed(engine, asked, 3)
    assert first == again == mixed == expected
    for size in (1, 3, 12):  # and behind what several rows share
        assert complete(engine, asked, size) == expected
    assert little == len(PROMPTS) < all_of_it, "of each prompt, the last token"
    assert engine.prompts.tokens > 0


def test_a_prompt_that_continues_an_answer_uses_its_keys_and_values(engine: LocalEngine) -> None:
    [ids] = complete(engine, [Request(0, PROMPTS[0], recurring=True)]).values()
    prompt = (*engine.encode(Request(0, PROMPTS[0]))[1], *ids)
    longer = [Request(1, (*prompt, 7, 8, 9), recurring=True)]
    kept, little = computed(engine, longer)
    assert little <= c_interface.LANES + 3
    engine.prompts.clear()
    assert computed(engine, longer) == (kept, len(prompt) + 3)


def test_nothing_is_kept_of_what_nobody_said_would_come_again(engine: LocalEngine) -> None:
    _, first = computed(engine, requests())
    _, second = computed(engine, requests())
    assert first == second
    assert engine.prompts.tokens == 0


def test_a_full_cache_forgets_what_was_longest_ago(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_tree, "MIN_TOKENS", 10**9)
    asked = requests(recurring=True)
    expected, _ = computed(engine, asked, 1)
    engine.prompts.clear()
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    blocks = 12
    engine.prompts.max_nbytes = blocks * compute_block_nbytes(heads)
    for _ in range(2):
        assert computed(engine, asked, 1)[0] == expected
        assert engine.prompts.tokens == blocks * c_interface.LANES
        assert len(engine.prompts._known) <= 2 * blocks, "what is forgotten is known by no key"
    last = asked[-1:]
    assert computed(engine, last) == ({last[0].id: expected[int(last[0].id)]}, 1)


def test_what_is_kept_of_ever_new_prompts_and_stop_texts_stops_growing(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values, the keys that find them, and what is known of stop texts: all of them level
    off."""
    monkeypatch.setattr("runner_engine.decode.tokens.stopping.MAX_CACHED", 100)
    engine.load()
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    blocks = 24
    engine.prompts.max_nbytes = blocks * compute_block_nbytes(heads)
    common = "Each of these begins with the same long text, which is read once for all of them. " * 3
    stopping = [0]
    accept = Stopping.accept_token

    def counted(self: Stopping, *of_a_token: Any) -> bool:
        goes_on = accept(self, *of_a_token)
        stopping.append(len(self._completes))
        return goes_on

    monkeypatch.setattr(Stopping, "accept_token", counted)
    sizes = []
    for turn in range(4):
        asked = [
            Request(n, f"{common}{turn}.{n} {n * 7919}", stop=(chr(0x400 + 12 * turn + n),), recurring=True)
            for n in range(12)
        ]
        complete(engine, asked, 6)
        assert engine.prompts.tokens <= blocks * c_interface.LANES
        sizes.append(len(pickle.dumps([*engine.prompts._known])))
    assert engine.prompts.tokens == blocks * c_interface.LANES == engine.stats.kept_tokens
    assert engine.stats.shared_tokens > len(common), "some of them stood on the common text"
    assert max(sizes) < 200 * blocks, "a block's keys: its own tokens, and a word on what is before it"
    assert 0 < max(stopping) <= 100
