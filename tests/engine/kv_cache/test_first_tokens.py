"""The first tokens of a text in the model's numbers, beside fewer bits: as one softmax says, kept,
copied and planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attending import heads_for, ints, kernels_or_none, random
from passes import CASES, check_pass
from streams import PROMPTS, complete, requests

from runner_base.dtypes import Dtype
from runner_engine import resolve_model
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache import create_kv_store, get_attention_kernels_if_supported
from runner_engine.kv_cache import first_tokens as first_tokens_module
from runner_engine.kv_cache.formats import as_model
from runner_engine.local.engine import LocalEngine
from runner_engine.plan.footprint import predict_footprint
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import FIRST_TOKENS, KvCache
from runner_engine.settings.model import LocalModelConfig

INT4 = KvCache.parse({"keys": "int4", "values": "int4", "first_tokens": "as_model"})
K8V4 = KvCache.parse({"keys": "int8", "values": "int4", "first_tokens": "as_model"})
WAYS = pytest.mark.parametrize("way", ["kernels", "torch"])
Make = Callable[..., LocalEngine]


def test_they_are_a_block_of_the_kernels() -> None:
    assert FIRST_TOKENS == LANES


@pytest.mark.sampled(8)
@WAYS
@pytest.mark.parametrize(
    "form", ["f32 in int4, first plain", "bf16 in int8, first plain", "bf16 in k8v4, first plain"]
)
@pytest.mark.parametrize(
    "case",
    ["decoding 3x3x64", "step 2x2x128", "prompts 2x5x80", "branches, None, cap and sinks", "many prefixes"],
)
def test_attention_is_that_of_one_softmax(case: str, form: str, way: str) -> None:
    check_pass(CASES[case], form, way)


@pytest.mark.thorough
@WAYS
def test_in_a_text_that_begins_elsewhere_they_are_not_found(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a row behind a prefix has no first tokens of its own, and a prefix that begins a
    text has."""
    case, form = CASES["decoding 3x3x64"], "f32 in int4, first plain"
    check_pass(case, form, way)
    for kind in (type(create_kv_store(heads_for(way, 1, 1, 1, 16, torch.float32), kernels_or_none(way))),):
        monkeypatch.setattr(kind, "set_text_start", lambda self, slot, is_beginning: None)
    with pytest.raises(AssertionError, match="off by"):
        check_pass(case, form, way)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_kernels_store_them_as_they_are(dtype: torch.dtype) -> None:
    kernels = kernels_or_none("kernels")
    heads = replace(heads_for("kernels", 3, 2, 1, 80, dtype), kv_cache=INT4)
    own = create_kv_store(heads, kernels, [40, 40])
    own.set_text_start(1, False)
    keys, values = (random(torch.Generator().manual_seed(n), 37, 2, 80, dtype=dtype) for n in (0, 1))
    for slot in (0, 1):
        own.write(1, keys, values, ints([slot] * 37), ints([*range(37)]))
    pair = 2 if dtype is torch.bfloat16 else 1
    for side, given in enumerate((keys, values)):
        first = own.get_first_token_tensors(0)[3 * side + 1]
        rows = as_model.read_kv_blocks(first, 80, pair, is_keys=not side)
        assert torch.equal(rows, given[:LANES].transpose(0, 1))
        for layer in (0, 2):
            assert not bool(own.get_first_token_tensors(0)[3 * side + layer].any()), "of no other layer"
    assert not any(bool(some.any()) for some in own.get_first_token_tensors(1)), (
        "a row that begins elsewhere has none"
    )
    coded = own.read_stored_kv(1, 0, 37)[0][:, :LANES]
    assert not bool(coded.any()), "their places among the others stay empty"
    assert bool(own.read_stored_kv(1, 1, 37)[0][:, :LANES].any())


@pytest.fixture
def engine_of(opened: Make, saved_family: Callable[..., Path]) -> Make:
    def make(kv_cache: KvCache = INT4, dtype: Dtype = Dtype.float32, **keys: Any) -> LocalEngine:
        folder = saved_family("llama", max_position_embeddings=512)
        generation = GenerationConfig(max_new_tokens=12, kv_cache=kv_cache, **keys)
        return opened(
            model=LocalModelConfig(name=str(folder), device="cpu", dtype=dtype), generation=generation
        )

    return make


def scores(engine: LocalEngine) -> torch.Tensor:
    """Return the log-probabilities of a continuation of each prompt."""
    asked = [Request(number, prompt, continuation=" and so on.") for number, prompt in enumerate(PROMPTS)]
    found = {one.id: one.logprobs or [] for one in contract.complete_requests(engine, asked)}
    return torch.tensor([found[number] for number in sorted(found)])


@pytest.mark.thorough
@pytest.mark.parametrize("kv_cache", [INT4, K8V4], ids=str)
def test_answers_are_the_same_beside_others_and_behind_what_is_kept(
    engine_of: Make, kv_cache: KvCache
) -> None:
    """Rows alone, rows that share prefixes, and those that begin with conversations or with blocks
    of earlier prompts."""
    engine = engine_of(kv_cache)
    alone = {number: tokens for one in requests() for number, tokens in complete(engine, [one]).items()}
    assert "first 16 tokens" in str(engine.load().facts["kv_cache"])
    for asked in (requests(), requests(recurring=True), requests(keep=True)):
        for _ in range(2):
            for rows in (None, 2):
                assert complete(engine, asked, rows) == alone
    assert engine.prompts.tokens > 0
    assert engine.stats.shared_tokens > 100
    assert engine.stats.notes == []
    heads = engine.find_kv_spec(engine.loaded)
    if heads is not None and get_attention_kernels_if_supported(heads) is not None:
        assert engine.fused is not None, "a pass in a single call"


@pytest.mark.thorough
def test_first_tokens_that_are_not_copied_are_missed(
    engine_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: what is kept of a prompt comes with its first tokens."""
    from runner_engine.kv_cache import block_chunks, prefix_tree

    expected = complete(engine_of(), requests())
    kinds: tuple[dict[str, Any], ...] = ({"recurring": True}, {"keep": True})
    for kind in kinds:
        engine = engine_of()
        assert complete(engine, requests(**kind)) == expected
        with monkeypatch.context() as patched:
            for module in (prefix_tree, block_chunks, first_tokens_module):
                patched.setattr(module, "copy_tensors", lambda given, to: None)
            broken = engine_of()
            complete(broken, requests(**kind))
            assert complete(broken, requests(**kind)) != expected


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("kv_cache", [INT4, K8V4], ids=str)
def test_torch_alone_gives_the_log_probabilities_of_the_kernels(
    engine_of: Make, kv_cache: KvCache, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_kernels = scores(engine_of(kv_cache, dtype))
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    by_torch = scores(engine_of(kv_cache, dtype))
    assert float((by_kernels - by_torch).abs().mean()) < (0.02 if dtype is Dtype.float32 else 0.1)


@pytest.mark.thorough
def test_a_short_text_is_the_models_own(engine_of: Make) -> None:
    """Up to 16 tokens, nothing is rounded; without first tokens, it is."""
    asked = [Request(number, tuple(range(5, 5 + 9)), continuation=(20, 21, 22, 23)) for number in range(2)]

    def found(kv_cache: KvCache) -> torch.Tensor:
        return torch.tensor(
            [one.logprobs or [] for one in contract.complete_requests(engine_of(kv_cache), asked)]
        )

    plain, coded = found(KvCache.as_model), found(KvCache.int4)
    assert torch.allclose(found(INT4), plain, atol=1e-4)
    assert float((coded - plain).abs().max()) > 1e-2


@pytest.mark.thorough
def test_a_plan_counts_them(engine_of: Make) -> None:
    peaks = {}
    for kv_cache in (KvCache.int4, INT4):
        engine = engine_of(kv_cache)
        prompts = [tuple((3 + 7 * place + 11 * row) % 250 for place in range(100)) for row in range(2)]
        complete(engine, [Request(row, prompt, ignore_eos=True) for row, prompt in enumerate(prompts)], 2)
        predicted = predict_footprint(resolve_model(engine.spec), (2, 100, 12))
        assert predicted is not None
        peaks[kv_cache] = engine.stats.peak_kv_bytes
        assert predicted.decode_kv_bytes == pytest.approx(peaks[kv_cache], rel=0.05)
    heads = engine.find_kv_spec(engine.loaded)
    assert heads is not None
    assert peaks[INT4] - peaks[KvCache.int4] == 2 * heads.first_tokens_nbytes
    assert heads.first_tokens_nbytes == 2 * 16 * 2 * 64 * 4, (
        "keys and values, tokens, layers, a head in float32"
    )
