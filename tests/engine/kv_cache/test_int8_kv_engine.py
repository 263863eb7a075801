"""An engine with keys and values in 8 bits: its answers, its memory, and the models that it
refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import make_spec
from raising import raises
from streams import PROMPTS, complete, requests

from runner_base.dtypes import Dtype
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.decode.cache_probe import IncompatibleModel
from runner_engine.decode.compat_probe import are_multi_token_logits_exact
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.kv_cache import prefix_tree
from runner_engine.kv_cache.kv_store import get_attention_kernels_if_supported
from runner_engine.local.capabilities import list_supported_capabilities
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions import contract
from runner_engine.sessions.base import Capability, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., LocalEngine]
DIM = 64  # of the test models' heads
DTYPES = pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])


@pytest.fixture
def engine_of(opened: Make, saved_family: Callable[..., Path]) -> Make:
    def make(family: str = "llama", dtype: Dtype = Dtype.float32, **keys: Any) -> LocalEngine:
        folder = saved_family(family, max_position_embeddings=512)
        generation = replace(GenerationConfig(max_new_tokens=20, kv_cache=KvCache.int8), **keys)
        return opened(
            model=LocalModelConfig(name=str(folder), device="cpu", dtype=dtype), generation=generation
        )

    return make


def alone(engine: LocalEngine) -> dict[Any, list[int]]:
    """Return the answers to the prompts, each asked by itself."""
    return {
        number: tokens for request in requests() for number, tokens in complete(engine, [request]).items()
    }


def scores(engine: LocalEngine, asked: list[Request], rows: int | None = None) -> dict[Any, list[float]]:
    return {one.id: one.logprobs or [] for one in contract.complete_requests(engine, asked, rows)}


@pytest.mark.thorough
@DTYPES
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_an_answer_does_not_depend_on_the_rows_beside_it(
    engine_of: Make, family: str, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 without shared prefixes: they change the order of sums, whatever the format of
    the cache.

    SDPA (RUNNER_ATTENTION=sdpa) has an order that depends on the longest row, too, so there an
    answer may tip over.
    """
    if dtype is Dtype.bfloat16:
        monkeypatch.setattr(prefix_tree, "MIN_TOKENS", 10**9)
    engine = engine_of(family, dtype)
    expected = alone(engine)
    assert len({tuple(tokens) for tokens in expected.values()}) >= len(PROMPTS) - 2, (
        "answers differ with the prompt"
    )
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    most = 2 if heads.by_sdpa and dtype is Dtype.bfloat16 else 0
    for rows in (None, 5, 2):
        found = complete(engine, requests(), rows)
        assert sum(found[number] != tokens for number, tokens in expected.items()) <= most
    assert (engine.stats.shared_tokens > 100) == (dtype is Dtype.float32), "rows shared prefixes"
    assert engine.stats.notes == []
    if get_attention_kernels_if_supported(heads) is not None:
        assert engine.fused is not None, "a pass in a single call"
        forward = Forward(engine.loaded.model, heads)
        forward.fused = engine.fused
        assert are_multi_token_logits_exact(forward, 259), "so guessed tokens can be checked"


@pytest.mark.thorough
@DTYPES
def test_log_probabilities_are_the_same_bits_beside_other_rows(
    engine_of: Make, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # with shared prefixes, sums have another order
    monkeypatch.setattr(prefix_tree, "MIN_TOKENS", 10**9)
    engine = engine_of(dtype=dtype)
    asked = [
        Request(number, prompt, continuation=" " + PROMPTS[-number - 1])
        for number, prompt in enumerate(PROMPTS)
    ]
    together = scores(engine, asked)
    single = {number: some for one in asked for number, some in scores(engine, [one]).items()}
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    # a sum in another order may round to the next byte
    off = 0.0 if not heads.by_sdpa else 0.01 if dtype is Dtype.float32 else 0.1
    assert single == {number: pytest.approx(some, rel=0, abs=off) for number, some in together.items()}
    plain = scores(engine_of(dtype=dtype, kv_cache=KvCache.as_model), asked)
    pairs = [pair for number in plain for pair in zip(together[number], plain[number], strict=True)]
    apart = [abs(one - other) for one, other in pairs]
    assert 0 < sum(apart) / len(apart) < 0.1, "8 bits cost something, and little"


@pytest.mark.thorough
@DTYPES
@pytest.mark.parametrize("by_torch", [False, True], ids=["kernels", "torch"])
def test_the_memory_of_keys_and_values_is_that_of_8_bits(
    engine_of: Make, dtype: Dtype, by_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_torch:
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    peaks = {}
    for kv_cache in (KvCache.as_model, KvCache.int8):
        engine = engine_of(dtype=dtype, kv_cache=kv_cache)
        complete(engine, requests(ignore_eos=True))
        peaks[kv_cache] = engine.stats.peak_kv_bytes
        facts = engine.load().facts
        assert facts.get("kv_cache") == (
            "int8, a float32 scale for each head and position" if kv_cache == KvCache.int8 else None
        )
    itemsize = 4 if dtype is Dtype.float32 else 2
    assert peaks[KvCache.int8] / peaks[KvCache.as_model] == (DIM + 4) / (DIM * itemsize)


@pytest.mark.thorough
@DTYPES
def test_torch_alone_gives_the_log_probabilities_of_the_kernels(
    engine_of: Make, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Request(number, prompt, continuation=" and so on.") for number, prompt in enumerate(PROMPTS)]
    by_kernels = scores(engine_of(dtype=dtype), asked)
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    by_torch = scores(engine_of(dtype=dtype), asked)
    of_kernels, of_torch = (
        torch.tensor([some[number] for number in some]) for some in (by_kernels, by_torch)
    )
    assert float((of_kernels - of_torch).abs().mean()) < (0.01 if dtype is Dtype.float32 else 0.1)


@pytest.mark.thorough
@pytest.mark.parametrize("speculate", ["auto", "off"])
def test_copied_and_guessed_tokens_change_no_answer(engine_of: Make, speculate: str) -> None:
    engine = engine_of(speculate=speculate)
    expected = alone(engine)
    for asked in (requests(recurring=True), requests(keep=True)):
        for _ in range(2):
            for rows in (1, 3):
                assert complete(engine, asked, rows) == expected
    assert engine.prompts.tokens > 0


@pytest.mark.thorough
def test_several_answers_to_a_prompt_are_those_of_single_ones(engine_of: Make) -> None:
    engine = engine_of(temperature=1.0)
    prompt = PROMPTS[0]
    [several] = [contract.complete_requests(engine, [Request(0, prompt, n=4)])]
    assert len({tuple(one.answer.token_ids) for one in several}) > 1
    again = contract.complete_requests(engine, [Request(0, prompt, n=4), *requests()[1:]])
    same = {one.choice: one.answer.token_ids for one in again if one.id == 0}
    assert same == {one.choice: one.answer.token_ids for one in several}


def test_models_and_rows_of_other_routes_are_refused(
    engine_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def incompatible(_: object) -> None:
        raise IncompatibleModel(note("other_state", what="DynamicLayer"))

    monkeypatch.setattr("runner_engine.local.engine.infer_and_test_kv_cache_spec", incompatible)
    with raises(ConfigError, "unsupported", "generation.kv_cache"):
        engine_of().load()
    assert engine_of(kv_cache=KvCache.as_model).load().facts["decoding"] != "continuous batching"


def test_rows_beyond_the_reach_of_the_scheduler_are_refused(
    engine_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner_engine.local.engine.get_max_length_with_fixed_rope", lambda _: 30)
    engine = engine_of()
    with raises(ConfigError, "unsupported", "generation.kv_cache"):
        complete(engine, requests())


def test_branches_need_a_cache_in_the_models_format() -> None:
    from runner_engine.settings.rope import Rope2dConfig

    model = LocalModelConfig(name="x")
    for kv_cache in (KvCache.as_model, KvCache.int8):
        spec = make_spec(model=model, rope=Rope2dConfig(), generation=GenerationConfig(kv_cache=kv_cache))
        assert (Capability.branches in list_supported_capabilities(spec)) == (kv_cache == KvCache.as_model)
