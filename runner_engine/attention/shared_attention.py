"""Attention to keys that many tokens share, by a kernel: the call, and the way that is the fastest
on this processor.

Vectors do it on every processor. By tiles (AMX) few rows go by vectors and many by tiles, whose
sums are in the same order bit for bit; a row is a query of one head. Where tiles work, they are
tried beside vectors with an order of their own, and then both are measured once
(matmul/autotune.py).
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
from runner_engine.attention.own_attention import OwnPlaces, attend_own
from runner_engine.attention.parts import Scaling
from runner_engine.kernels.native import Kernels, pointer_or_none
from runner_engine.kernels.shared_numbers import NO_TILES
from runner_engine.kv_cache import Heads, OwnKv, SharedKv
from runner_engine.matmul import (
    TIE,
    Candidate,
    Choice,
    Contest,
    Naming,
    Seconds,
    by_turns,
    choice_of,
    decide,
    describe_tiles,
    fastest_way,
    kept,
    requested_way,
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

Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class AttentionWay(StrEnum):
    """How attention to shared keys is computed."""

    tiles = "tiles"
    vectors = "vectors"


@dataclass(frozen=True)
class SharedPlaces:
    """The keys and values that tokens share: the first `sees` places of a slot."""

    store: OwnKv
    slot: int
    sees: int
    causal: bool = False  # each token sees one place more than the one before


def attend_shared(
    kernels: Kernels, heads: Heads, scaling: Scaling, layer: int, query: torch.Tensor,
    chosen: torch.Tensor | None, count: int, places: SharedPlaces, first: torch.Tensor | None,
) -> Part:  # fmt: skip
    """Attend [H, T, D], or the chosen of these tokens, to shared places, from `first` on: outputs,
    maxima, sums."""
    rows = count * heads.group
    if query.dtype != heads.dtype or query.shape[::2] != (heads.kv_heads * heads.group, heads.dim):
        raise ValueError(f"queries {list(query.shape)} of {query.dtype} for {heads}")
    out = torch.empty(heads.kv_heads, rows, heads.dim, dtype=heads.dtype)
    top, total = (torch.empty(heads.kv_heads, rows, dtype=torch.float32) for _ in range(2))
    kernels(
        heads.kernel("attend_shared"),
        heads.dtype,
        query.data_ptr(),
        query.stride(0),
        query.stride(1),
        query.shape[1],
        pointer_or_none(chosen, torch.int64, count),
        count,
        places.store.table[places.slot].data_ptr(),
        heads.kernel_layer(layer),
        heads.kv_heads,
        heads.group,
        heads.dim,
        places.sees,
        int(places.causal),
        pointer_or_none(first, torch.int32, count),
        ctypes.c_float(scaling.scale),
        ctypes.c_float(scaling.cap),
        out.data_ptr(),
        top.data_ptr(),
        total.data_ptr(),
        heads.attention_tile_rows,
    )
    return out, top, total


def requested() -> str | None:
    """Return the way that RUNNER_SHARED_ATTENTION forces; ConfigError where it is none."""
    return requested_way(FORCED, list(AttentionWay))


def choose(heads: Heads, kernels: Kernels | None) -> Choice | None:
    """Return the way for a model's heads; None where torch computes it."""
    if kernels is None or not kernels.has("attend_shared", heads.dtype):
        return None
    vectors = kernels.vectors_for(heads.dtype)
    by_tiles = Candidate(
        AttentionWay.tiles,
        what_tiles_lack(heads, kernels),
        lambda: difference(heads.group, heads.dim, heads.kv_cache, kernels),
    )
    contest = Contest(
        lambda _: _kept_seconds(heads, kernels),
        # tiles that are faster by less than TIE do not take the place of vectors
        lambda took: fastest_way(took, IN_ORDER, PASSES, lambda *_: 1 / TIE, MOST_TILE_ROWS),
        FEWEST_TILE_ROWS,
    )
    decision = decide([by_tiles, Candidate(AttentionWay.vectors)], requested(), contest)
    named: dict[str, Callable[[int], Note]] = {
        AttentionWay.tiles: lambda tile_rows: describe_tiles(tile_rows, vectors),
        AttentionWay.vectors: lambda _: note("attention_by_vectors", vectors=vectors),
    }
    return choice_of(decision, Naming(named, FORCED, is_attention=True))


def what_tiles_lack(heads: Heads, kernels: Kernels) -> Note | None:
    """Return why there are no tiles for such heads; None if there are."""
    if heads.dtype != torch.bfloat16:
        return note("keys_not_bfloat16", dtype=str(heads.dtype).removeprefix("torch."))
    if heads.dim % TILE_WIDTH:
        return note("heads_not_whole_tiles", dim=heads.dim, width=TILE_WIDTH)
    return kernels.tiles_problem


def _kept_seconds(heads: Heads, kernels: Kernels) -> Seconds | None:
    """Return the seconds of each way for these heads, one on which others are measured; None if
    they cannot be kept."""
    of_most = replace(heads.kv_cache, layers=())
    alone = replace(heads, layers=1, kv_heads=1, windows=(), attention_tile_rows=0, kv_cache=of_most)
    stored = str(heads.kv_cache) if heads.in_bytes else "bfloat16"
    key = f"attention of {heads.group} x {heads.dim} to {KEYS} keys, {stored}"
    ways = {"tiles": 1, IN_ORDER: NO_TILES, "vectors": 0}

    def measured(_: str, deadline: float) -> Seconds:
        random = torch.Generator().manual_seed(0)
        places = _random_places(alone, kernels, KEYS, random)
        inputs = {}
        for count in ROWS:
            tokens = -(-count // heads.group)
            inputs[count] = torch.randn(
                heads.group, tokens, heads.dim, generator=random, dtype=torch.float32
            ).to(heads.dtype)
        calls = {
            name: partial(_attend, kernels, replace(alone, attention_tile_rows=tile_rows), places)
            for name, tile_rows in ways.items()
        }
        return by_turns(calls, inputs, deadline)

    known = kept([key], list(ways), ROWS, kernels, measured, MAX_SECONDS)
    return None if known is None else {way: {count: known[key][way][count] for count in ROWS} for way in ways}


def _attend(kernels: Kernels, heads: Heads, places: SharedPlaces, query: torch.Tensor) -> Part:
    scaling = Scaling(heads.dim**-0.5, 0.0)
    return attend_shared(kernels, heads, scaling, 0, query, None, query.shape[1], places, None)


def _random_places(heads: Heads, kernels: Kernels, count: int, random: torch.Generator) -> SharedPlaces:
    """Return random keys and values of a single layer."""
    kv = SharedKv.empty(heads, count, kernels)
    keys, values = (
        torch.randn(heads.kv_heads, count, heads.dim, generator=random, dtype=torch.float32).to(heads.dtype)
        for _ in range(2)
    )
    where = torch.zeros(count, dtype=torch.int32), torch.arange(count, dtype=torch.int32)
    kv.store.write(0, keys.transpose(0, 1), values.transpose(0, 1), *where)
    return SharedPlaces(kv.store, 0, count)


@cache
def difference(group: int, dim: int, kv_cache: KvCache, kernels: Kernels) -> Note | None:
    """Try tiles beside vectors: return by how much they are off; None if that is only rounding.

    Each token must also have the bits that it has alone, where its rows go by vectors in the order
    of tiles.
    """
    random = torch.Generator().manual_seed(0)
    of_most = replace(kv_cache, layers=())
    heads = Heads(1, 2, group, dim, torch.bfloat16, torch.device("cpu"), kv_cache=of_most)
    # one token's rows go by vectors, more by tiles
    by_tiles = replace(heads, attention_tile_rows=group + 1)
    query = torch.randn(2 * group, TRIAL_TOKENS, dim, generator=random, dtype=torch.float32).to(
        torch.bfloat16
    )
    whole = _random_places(heads, kernels, TRIAL_KEYS, random)
    windows = torch.arange(TRIAL_TOKENS, dtype=torch.int32) * 11 % TRIAL_KEYS
    for is_causal, first, cap in ((False, None, 0.0), (True, None, 0.0), (True, windows, 2.0)):
        places = replace(whole, sees=TRIAL_KEYS - TRIAL_TOKENS + 1, causal=True) if is_causal else whole
        scaling = Scaling(dim**-0.5, cap)
        found, expected = (
            attend_shared(kernels, way, scaling, 0, query, None, TRIAL_TOKENS, places, first)
            for way in (by_tiles, heads)
        )
        if not (off := _largest_difference(found, expected)) <= ALLOWED:
            return note("attention_off", tokens=TRIAL_TOKENS, keys=TRIAL_KEYS, off=off)
        for at in range(0, TRIAL_TOKENS, 6):
            seen = replace(places, sees=places.sees + at, causal=False) if is_causal else places
            begin = None if first is None else first[at : at + 1]
            alone = attend_shared(kernels, by_tiles, scaling, 0, query, torch.tensor([at]), 1, seen, begin)
            rows = slice(at * group, (at + 1) * group)
            if not all(torch.equal(one, many[:, rows]) for one, many in zip(alone, found, strict=True)):
                return note("attention_bits_off", tokens=TRIAL_TOKENS, keys=TRIAL_KEYS)
    if heads.in_bytes:
        return None
    return _own_difference(kernels, heads, whole, query.transpose(0, 1).contiguous())


def _own_difference(kernels: Kernels, heads: Heads, whole: SharedPlaces, query: torch.Tensor) -> Note | None:
    """As _difference, for attention of tokens [T, H, D] to their own keys: fewer and more than a
    tile has."""
    seen = torch.arange(1, TRIAL_KEYS + 1, TRIAL_KEYS // TRIAL_TOKENS, dtype=torch.int32)[:TRIAL_TOKENS]
    for first, cap in ((None, 0.0), (seen // 3, 2.0)):
        places = OwnPlaces(whole.store, torch.zeros_like(seen), seen, first)
        by_tiles, by_vectors = (
            attend_own(kernels, way, Scaling(heads.dim**-0.5, cap), 0, query, places).float()
            for way in (replace(heads, attention_tile_rows=1), heads)
        )
        off = float((by_tiles - by_vectors).abs().max() / by_vectors.abs().max())
        if not off <= ALLOWED:
            return note("own_attention_off", off=off)
    return None


def _largest_difference(found: Part, expected: Part) -> float:
    """Return by how much two parts differ, as a share of their largest number; infinite if other
    tokens see nothing."""
    see = [total > 0 for _, _, total in (found, expected)]
    if not torch.equal(*see):
        return math.inf
    means = [(out.float() / total[..., None])[see[0]] for out, _, total in (found, expected)]
    sizes = [(top + total.log())[see[0]] for _, top, total in (found, expected)]
    of_means = (means[0] - means[1]).abs().max() / means[1].abs().max()
    return float(torch.maximum(of_means, (sizes[0] - sizes[1]).abs().max()))
