"""A long row's own keys are gone through in pieces: to one softmax over all of them, and to the same bits by any threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attending import ints, random, shared_kv
from forward_pass import read_rows, with_fast_kernels
from passes import FORMATS, SOFTMAXES, one_softmax

from runner_base.dtypes import Dtype
from runner_engine.attention.own_keys_attention import OwnKeyRanges, run_unshared_key_attention_kernel
from runner_engine.attention.partial_attention import Scaling
from runner_engine.decode.passes.forward import Forward, TokenSpan
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import OWN_PIECE
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore
from runner_engine.local.engine import LocalEngine
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.kv_cache import KvCache
from runner_engine.settings.model import LocalModelConfig

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is in pieces"
)
SEEN = [5, OWN_PIECE, OWN_PIECE + 1, 2 * OWN_PIECE, 2 * OWN_PIECE + 531, 3 * OWN_PIECE + 16]
# of windows: some hide whole pieces
FIRST = [0, 3, OWN_PIECE, OWN_PIECE - 7, OWN_PIECE + 900, 2 * OWN_PIECE + 40]
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.03}  # of the largest number
INT4 = KvCache.parse("{keys: int4, values: int4, first_tokens: as_model}")
K8V4 = KvCache.parse("{keys: int8, values: int4, first_tokens: as_model}")
OFF = {  # of the logits' spread; in fewer bits a number that is rounded otherwise is another code
    (Dtype.float32, KvCache.as_model): 2e-5, (Dtype.bfloat16, KvCache.as_model): 0.05,
    (Dtype.float32, INT4): 0.02, (Dtype.float32, K8V4): 0.02, (Dtype.float32, KvCache.int8_rotated): 0.02,
    (Dtype.bfloat16, INT4): 0.1,
}  # fmt: skip
LONG = (OWN_PIECE + 300, 40, 2 * OWN_PIECE + 450)  # prompts of rows


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.sampled(28)
@pytest.mark.parametrize("softmax", list(SOFTMAXES))
@pytest.mark.parametrize("has_window", [False, True])
@pytest.mark.parametrize("name", ["f32", "bf16", "f32 in int8", "bf16 in k8v4"])
def test_pieces_are_one_softmax(name: str, has_window: bool, softmax: str, threads: int) -> None:
    dtype, kv_cache = FORMATS[name]
    kernels, of_softmax = native.load_kernels(), SOFTMAXES[softmax]
    assert kernels is not None
    heads = KvCacheSpec(2, 2, 3, 64, dtype, torch.device("cpu"), kv_cache=kv_cache)
    chance, places = torch.Generator().manual_seed(1), SEEN[-1]
    keys, values = ([random(chance, 2, places, 64, dtype=dtype) for _ in range(2)] for _ in range(2))
    query = random(chance, len(SEEN), 6, 64, dtype=dtype)
    own = OwnKeyRanges(
        shared_kv(heads, kernels, keys, values).store, ints([0] * len(SEEN)), ints(SEEN), ints(FIRST) if has_window else None
    )  # fmt: skip
    scaling = Scaling(64**-0.5, of_softmax.cap)
    turned = heads.apply_hadamard_rotation_if_enabled(query.clone(), kernels)
    found = run_unshared_key_attention_kernel(kernels, heads, scaling, 1, turned, own, sinks=of_softmax.sinks)
    answers = heads.apply_hadamard_rotation_if_enabled(found.clone(), kernels)
    for at, (first, seen) in enumerate(zip(FIRST if has_window else [0] * len(SEEN), SEEN, strict=True)):
        wanted = one_softmax(
            query[at], keys[1][:, first:seen], values[1][:, first:seen], heads, 64**-0.5, of_softmax
        )
        largest = wanted.abs().max()
        assert (answers[at] - wanted).abs().max() <= ROUNDING[dtype] * largest
        if seen - first > 2 * OWN_PIECE:  # a piece that is left out is seen
            fewer = [
                torch.cat((of[1][:, first:OWN_PIECE], of[1][:, 2 * OWN_PIECE : seen]), 1)
                for of in (keys, values)
            ]
            left_out = one_softmax(query[at], fewer[0], fewer[1], heads, 64**-0.5, of_softmax)
            assert (answers[at] - left_out).abs().max() > 5 * ROUNDING[dtype] * largest
        just = slice(at, at + 1)
        alone = replace(
            own,
            slot=own.slot[just],
            seen=own.seen[just],
            first=None if own.first is None else own.first[just],
        )
        assert torch.equal(
            run_unshared_key_attention_kernel(
                kernels, heads, scaling, 1, turned[just], alone, sinks=of_softmax.sinks
            )[0],
            found[at],
        )


@pytest.fixture
def engine_of(
    opened: Callable[..., LocalEngine], saved_family: Callable[..., Path]
) -> Callable[..., LocalEngine]:
    def make(dtype: Dtype, kv_cache: KvCache = KvCache.as_model) -> LocalEngine:
        model = LocalModelConfig(
            name=str(saved_family("llama", max_position_embeddings=4 * OWN_PIECE)), device="cpu", dtype=dtype
        )
        return opened(model=model, generation=GenerationConfig(kv_cache=kv_cache))

    return make


@pytest.mark.thorough
@pytest.mark.parametrize(("dtype", "kv_cache"), list(OFF), ids=str)
def test_a_fused_step_of_long_rows(
    dtype: Dtype, kv_cache: KvCache, engine_of: Callable[..., LocalEngine]
) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(dtype, kv_cache))
    assert fused is not None
    torch.manual_seed(0)
    prompts = [torch.randint(0, 60, (length,)).tolist() for length in LONG]
    forward = Forward(loaded.model, heads)
    own, rows, _ = read_rows(forward, prompts)

    def step(some: list[TokenSequence], slots: KvStore) -> torch.Tensor:
        return forward.step(slots, some, forward.list_shared_prefixes(some)).float()

    by_operations = step(rows, own)
    forward.fused, before = fused, torch.get_num_threads()
    found = {}
    for count in (1, 3):
        torch.set_num_threads(count)
        found[count] = step(rows, own)
    torch.set_num_threads(before)
    assert torch.equal(found[1], found[3])
    assert (found[1] - by_operations).abs().max() <= OFF[dtype, kv_cache] * by_operations.std()
    alone = [step(one, slots) for slots, one, _ in [read_rows(forward, [ids]) for ids in prompts]]
    others = read_rows(forward, prompts)[0]
    assert torch.equal(step(rows, others), torch.cat(alone))
    guesses = [TokenSpan(rows[2], 2, [7, 11, 12], rows[2].kv.places, [11, 12, 13])]
    together = forward.run_token_spans(own, guesses).float()
    assert torch.equal(together[0], found[1][2])
    for at, token in ((1, 11), (2, 12)):
        rows[2].tokens, rows[2].kv.places = [*rows[2].tokens, token], rows[2].kv.places + 1
        assert torch.equal(together[at], step(rows, own)[2])
    own.get_slot_tensors(2)[1][:, OWN_PIECE + 160 : OWN_PIECE + 480] = (
        0  # keys of the second piece, in the second layer
    )
    assert not torch.equal(step(rows, own)[2], together[2])


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_pieces_of_a_prompt_have_the_bits_of_the_whole(
    dtype: Dtype, engine_of: Callable[..., LocalEngine]
) -> None:
    loaded, heads, fused = with_fast_kernels(engine_of(dtype))
    forward = Forward(loaded.model, heads)
    forward.fused = fused
    torch.manual_seed(0)
    prompts = [torch.randint(0, 60, (450,)).tolist()]
    # the last one is of 110 tokens
    whole, pieces = (read_rows(forward, prompts, piece)[2] for piece in (450, 170))
    assert torch.equal(whole, pieces)
    if dtype is Dtype.bfloat16:  # where token by token means other bits
        forward.short_span = 451
        assert not torch.equal(read_rows(forward, prompts, 170)[2], whole)
