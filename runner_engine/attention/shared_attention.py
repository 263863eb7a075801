"""Attention to keys that many tokens share: calls the C kernel, and selects the fastest backend.

The vector backend runs on every processor. With tiles (AMX), few queries use vectors and
many use tiles, whose sums have the same order bit for bit. Here one query means one head
of one token. Where tiles work, they are compared with vectors that use their own order of
summation, and both are timed once (matmul/autotune.py).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, partial

import torch

from runner_base.notes import Note, note
from runner_engine.attention.own_keys_attention import OwnKeyRanges, run_unshared_key_attention_kernel
from runner_engine.attention.partial_attention import Scaling
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.kernels.native import Kernels, get_optional_tensor_address
from runner_engine.kv_cache import KvCacheSpec, KvStore, SharedKv
from runner_engine.matmul import (
    TIE,
    BackendBenchmark,
    BackendCandidate,
    BackendChoice,
    BackendNaming,
    BackendTimings,
    build_backend_choice_from_decision,
    build_tile_batch_size_note,
    find_fastest_backend,
    load_or_measure_timings,
    read_forced_backend,
    select_backend,
    time_backends_alternately,
)
from runner_engine.settings.kv_cache import KvCache

FORCED = "RUNNER_SHARED_ATTENTION"
TILE_WIDTH = 32  # of a head: numbers that one instruction multiplies
KEYS = 512  # of what is measured
ROWS = (1, 4, 8, 16, 32, 128)
MOST_TILE_ROWS = 32  # so many rows are multiplied together: tiles begin there at the latest
PASSES = {4: 1, 16: 1, 128: 2}  # of those that a job is expected to have, so many have these rows
FEWEST_TILE_ROWS = 8  # where tiles are forced and not measured
IN_ORDER = "tile order"  # in the measurements: vectors that sum in the order of tiles
MAX_SECONDS = 0.05
# remainders of tiles, of blocks of keys and of what is multiplied at a time
TRIAL_TOKENS, TRIAL_KEYS = (37, 300)
ALLOWED = 2e-2  # of the largest number: bfloat16's rounding, and other orders of sums

AttentionTerm = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class SharedAttentionBackend(StrEnum):
    """Attention backends for the keys of a prompt prefix that sequences share."""

    tiles = "tiles"
    vectors = "vectors"


@dataclass(frozen=True)
class SharedKeyRange:
    """Keys and values that many tokens share. They occupy the first positions of a KV slot."""

    store: KvStore
    slot: int
    sees: int
    causal: bool = False  # each token sees one place more than the one before


def run_shared_key_attention_kernel(
    kernels: Kernels, kv_spec: KvCacheSpec, scaling: Scaling, layer: int, query: torch.Tensor,
    token_indices: torch.Tensor | None, num_tokens: int, key_range: SharedKeyRange,
    first_positions: torch.Tensor | None,
) -> AttentionTerm:  # fmt: skip
    """Compute attention of queries [H, T, D] to keys that many tokens share.

    Returns outputs, score maxima and sums of exponentials. token_indices: the tokens that attend;
    None means all.
    """
    rows = num_tokens * kv_spec.group
    if query.dtype != kv_spec.dtype or query.shape[::2] != (kv_spec.kv_heads * kv_spec.group, kv_spec.dim):
        raise ValueError(f"queries {list(query.shape)} of {query.dtype} for {kv_spec}")
    out = torch.empty(kv_spec.kv_heads, rows, kv_spec.dim, dtype=kv_spec.dtype)
    top, total = (torch.empty(kv_spec.kv_heads, rows, dtype=torch.float32) for _ in range(2))
    kernels(
        kv_spec.kernel_name("attend_shared"),
        kv_spec.dtype,
        query.data_ptr(),
        query.stride(0),
        query.stride(1),
        query.shape[1],
        get_optional_tensor_address(token_indices, torch.int64, num_tokens),
        num_tokens,
        key_range.store.address_table[key_range.slot].data_ptr(),
        kv_spec.get_kernel_layer_address(layer),
        kv_spec.kv_heads,
        kv_spec.group,
        kv_spec.dim,
        key_range.sees,
        int(key_range.causal),
        get_optional_tensor_address(first_positions, torch.int32, num_tokens),
        ctypes.c_float(scaling.scale),
        ctypes.c_float(scaling.cap),
        out.data_ptr(),
        top.data_ptr(),
        total.data_ptr(),
        kv_spec.attention_tile_rows,
    )
    return out, top, total


def requested_backend() -> str | None:
    """Return the backend that the environment variable RUNNER_SHARED_ATTENTION forces, or None.

    Raises ConfigError for unknown values.
    """
    return read_forced_backend(FORCED, list(SharedAttentionBackend))


def choose_shared_attention_backend(kv_spec: KvCacheSpec, kernels: Kernels | None) -> BackendChoice | None:
    """Select the fastest backend for attention to shared keys, given the model's heads.

    Returns None if torch computes attention.
    """
    if kernels is None or not kernels.has_function("attend_shared", kv_spec.dtype):
        return None
    vectors = kernels.name_vector_instructions(kv_spec.dtype)
    by_tiles = BackendCandidate(
        SharedAttentionBackend.tiles,
        find_tiled_kernel_problem(kv_spec, kernels),
        lambda: compare_tiled_and_vector_attention(kv_spec.group, kv_spec.dim, kv_spec.kv_cache, kernels),
    )
    contest = BackendBenchmark(
        lambda _: _load_or_measure_attention_timings(kv_spec, kernels),
        # tiles that are faster by less than TIE do not take the place of vectors
        lambda took: find_fastest_backend(took, IN_ORDER, PASSES, lambda *_: 1 / TIE, MOST_TILE_ROWS),
        FEWEST_TILE_ROWS,
    )
    decision = select_backend(
        [by_tiles, BackendCandidate(SharedAttentionBackend.vectors)], requested_backend(), contest
    )
    named: dict[str, Callable[[int], Note]] = {
        SharedAttentionBackend.tiles: lambda tile_rows: build_tile_batch_size_note(tile_rows, vectors),
        SharedAttentionBackend.vectors: lambda _: note("attention_by_vectors", vectors=vectors),
    }
    return build_backend_choice_from_decision(decision, BackendNaming(named, FORCED, is_attention=True))


def find_tiled_kernel_problem(kv_spec: KvCacheSpec, kernels: Kernels) -> Note | None:
    if kv_spec.dtype != torch.bfloat16:
        return note("keys_not_bfloat16", dtype=str(kv_spec.dtype).removeprefix("torch."))
    if kv_spec.dim % TILE_WIDTH:
        return note("heads_not_whole_tiles", dim=kv_spec.dim, width=TILE_WIDTH)
    return kernels.tile_kernel_problem


def _load_or_measure_attention_timings(kv_spec: KvCacheSpec, kernels: Kernels) -> BackendTimings | None:
    """Return the seconds that each backend takes, from the user cache if possible.

    Measured with one KV head. None if timings cannot be cached.
    """
    of_most = replace(kv_spec.kv_cache, layers=())
    alone = replace(kv_spec, layers=1, kv_heads=1, windows=(), attention_tile_rows=0, kv_cache=of_most)
    stored = str(kv_spec.kv_cache) if kv_spec.is_quantized else "bfloat16"
    key = f"attention of {kv_spec.group} x {kv_spec.dim} to {KEYS} keys, {stored}"
    ways = {"tiles": 1, IN_ORDER: NO_TILES, "vectors": 0}

    def measure(_key: str, deadline: float) -> BackendTimings:
        random = torch.Generator().manual_seed(0)
        places = _create_random_keys(alone, kernels, KEYS, random)
        inputs = {}
        for count in ROWS:
            tokens = -(-count // kv_spec.group)
            inputs[count] = torch.randn(
                kv_spec.group, tokens, kv_spec.dim, generator=random, dtype=torch.float32
            ).to(kv_spec.dtype)
        calls = {
            name: partial(_attend_all_tokens, kernels, replace(alone, attention_tile_rows=tile_rows), places)
            for name, tile_rows in ways.items()
        }
        return time_backends_alternately(calls, inputs, deadline)

    known = load_or_measure_timings([key], list(ways), ROWS, kernels, measure, MAX_SECONDS)
    return None if known is None else {way: {count: known[key][way][count] for count in ROWS} for way in ways}


def _attend_all_tokens(
    kernels: Kernels, kv_spec: KvCacheSpec, key_range: SharedKeyRange, query: torch.Tensor
) -> AttentionTerm:
    scaling = Scaling(kv_spec.dim**-0.5, 0.0)
    return run_shared_key_attention_kernel(
        kernels, kv_spec, scaling, 0, query, None, query.shape[1], key_range, None
    )


def _create_random_keys(
    kv_spec: KvCacheSpec, kernels: Kernels, num_positions: int, generator: torch.Generator
) -> SharedKeyRange:
    kv = SharedKv.allocate(kv_spec, num_positions, kernels)
    keys, values = (
        torch.randn(
            kv_spec.kv_heads, num_positions, kv_spec.dim, generator=generator, dtype=torch.float32
        ).to(kv_spec.dtype)
        for _ in range(2)
    )
    where = torch.zeros(num_positions, dtype=torch.int32), torch.arange(num_positions, dtype=torch.int32)
    kv.store.write(0, keys.transpose(0, 1), values.transpose(0, 1), *where)
    return SharedKeyRange(kv.store, 0, num_positions)


@cache
def compare_tiled_and_vector_attention(
    group_size: int, head_dim: int, kv_cache: KvCache, kernels: Kernels
) -> Note | None:
    """Compare the tiled kernel with the vector kernel on random keys.

    Detects wrong results of the tiled kernel.

    Returns a note on their difference, or None if the difference is only rounding.

    Each token must also get the same bits as alone, where its queries use vectors in tile
    order.
    """
    random = torch.Generator().manual_seed(0)
    of_most = replace(kv_cache, layers=())
    heads = KvCacheSpec(1, 2, group_size, head_dim, torch.bfloat16, torch.device("cpu"), kv_cache=of_most)
    # one token's rows go by vectors, more by tiles
    by_tiles = replace(heads, attention_tile_rows=group_size + 1)
    query = torch.randn(2 * group_size, TRIAL_TOKENS, head_dim, generator=random, dtype=torch.float32).to(
        torch.bfloat16
    )
    whole = _create_random_keys(heads, kernels, TRIAL_KEYS, random)
    windows = torch.arange(TRIAL_TOKENS, dtype=torch.int32) * 11 % TRIAL_KEYS
    for is_causal, first, cap in ((False, None, 0.0), (True, None, 0.0), (True, windows, 2.0)):
        places = replace(whole, sees=TRIAL_KEYS - TRIAL_TOKENS + 1, causal=True) if is_causal else whole
        scaling = Scaling(head_dim**-0.5, cap)
        found, expected = (
            run_shared_key_attention_kernel(
                kernels, way, scaling, 0, query, None, TRIAL_TOKENS, places, first
            )
            for way in (by_tiles, heads)
        )
        if not (off := _compute_max_relative_difference(found, expected)) <= ALLOWED:
            return note("attention_off", tokens=TRIAL_TOKENS, keys=TRIAL_KEYS, off=off)
        for at in range(0, TRIAL_TOKENS, 6):
            seen = replace(places, sees=places.sees + at, causal=False) if is_causal else places
            begin = None if first is None else first[at : at + 1]
            alone = run_shared_key_attention_kernel(
                kernels, by_tiles, scaling, 0, query, torch.tensor([at]), 1, seen, begin
            )
            rows = slice(at * group_size, (at + 1) * group_size)
            if not all(torch.equal(one, many[:, rows]) for one, many in zip(alone, found, strict=True)):
                return note("attention_bits_off", tokens=TRIAL_TOKENS, keys=TRIAL_KEYS)
    if heads.is_quantized:
        return None
    return _compare_tiled_unshared_attention(kernels, heads, whole, query.transpose(0, 1).contiguous())


def _compare_tiled_unshared_attention(
    kernels: Kernels, kv_spec: KvCacheSpec, key_range: SharedKeyRange, query: torch.Tensor
) -> Note | None:
    """Compare the tiled and the vector kernel on unshared keys.

    The tokens [T, H, D] have fewer and more unshared keys than a tile. Returns a note on the
    difference,
    or None.
    """
    seen = torch.arange(1, TRIAL_KEYS + 1, TRIAL_KEYS // TRIAL_TOKENS, dtype=torch.int32)[:TRIAL_TOKENS]
    for first, cap in ((None, 0.0), (seen // 3, 2.0)):
        places = OwnKeyRanges(key_range.store, torch.zeros_like(seen), seen, first)
        by_tiles, by_vectors = (
            run_unshared_key_attention_kernel(
                kernels, way, Scaling(kv_spec.dim**-0.5, cap), 0, query, places
            ).float()
            for way in (replace(kv_spec, attention_tile_rows=1), kv_spec)
        )
        off = float((by_tiles - by_vectors).abs().max() / by_vectors.abs().max())
        if not off <= ALLOWED:
            return note("own_attention_off", off=off)
    return None


def _compute_max_relative_difference(actual: AttentionTerm, expected: AttentionTerm) -> float:
    """Return the largest relative difference between two partial attention results.

    Returns infinity if they disagree on the tokens without visible keys.
    """
    see = [total > 0 for _, _, total in (actual, expected)]
    if not torch.equal(*see):
        return math.inf
    means = [(out.float() / total[..., None])[see[0]] for out, _, total in (actual, expected)]
    sizes = [(top + total.log())[see[0]] for _, top, total in (actual, expected)]
    of_means = (means[0] - means[1]).abs().max() / means[1].abs().max()
    return float(torch.maximum(of_means, (sizes[0] - sizes[1]).abs().max()))
