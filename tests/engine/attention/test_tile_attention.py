"""Attention to shared keys by tiles (AMX), which are emulated: its sums, and its bits whatever goes
along."""

from __future__ import annotations

from dataclasses import replace

import processors
import pytest
import torch
from emulated import OnlyTiles, needs_tile_compiler
from refusals import refusal

from runner_base.notes import note
from runner_engine.attention.own_keys_attention import OwnKeyRanges, run_unshared_key_attention_kernel
from runner_engine.attention.partial_attention import Scaling
from runner_engine.attention.shared_attention import (
    AttentionTerm,
    SharedKeyRange,
    compare_tiled_and_vector_attention,
    find_tiled_kernel_problem,
    run_shared_key_attention_kernel,
)
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import NO_TILES
from runner_engine.kernels.kv_layers import KvCode
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.shared_kv import SharedKv
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.kv_cache import KvCache

CPU = torch.device("cpu")
HEADS = KvCacheSpec(2, 2, 3, 64, torch.bfloat16, CPU)
# key-value heads, group, dim
SHAPES = [(1, 1, 32), (2, 3, 64), (1, 16, 96), (2, 4, 128), (1, 2, 512)]
# remainders of blocks, of tiles, and of what is multiplied at a time
KEYS = (1, 15, 16, 17, 33, 255, 256, 257, 300)
KV = pytest.mark.parametrize(
    "kv_cache", [KvCache.as_model, KvCache.int8, KvCache.int4, KvCache.k8v4], ids=str
)


def places_of(heads: KvCacheSpec, kernels: native.Kernels, count: int, scale: float = 1.0) -> SharedKeyRange:
    """Random keys and values in the first layer; those of the second, which lie behind, are no
    numbers."""
    kv = SharedKv.allocate(heads, count, kernels)
    keys, values = (torch.randn(heads.kv_heads, count, heads.dim).to(heads.dtype) * scale for _ in range(2))
    kv.store.write_stored(0, *heads.encode_kv(0, keys, values))
    if not heads.is_quantized:
        for tensor in kv.store.get_slot_tensors(0)[1::2]:
            tensor.fill_(float("nan"))
    return SharedKeyRange(kv.store, 0, count)


def expected(
    heads: KvCacheSpec, query: torch.Tensor, places: SharedKeyRange, first: torch.Tensor | None, cap: float
) -> AttentionTerm:
    """Outputs, maxima and sums in float64."""
    tokens, reach = query.shape[1], places.sees + (query.shape[1] - 1 if places.causal else 0)
    stored = places.store.read_stored_kv(0, 0, reach)
    kinds = zip(heads.get_layer_kv_formats(0), stored, strict=True)
    # scales come behind sums there; elsewhere numbers are multiplied in bfloat16
    wide = {KvCode.kv_int8: torch.float32}
    exact = [of.decode_kv(some, heads.dim, wide.get(KvCode(of.CODE), torch.bfloat16)) for of, some in kinds]
    keys, values = (some.double() for some in exact)
    grouped = query.double().view(heads.kv_heads, heads.group, tokens, heads.dim).transpose(1, 2)
    scores = grouped.reshape(heads.kv_heads, -1, heads.dim) @ keys.mT * 0.2
    if cap:
        scores = cap * (scores / cap).tanh()
    token = torch.arange(tokens).repeat_interleave(heads.group)[:, None]
    at = torch.arange(reach)[None]
    hidden = at >= places.sees + (token if places.causal else 0)
    if first is not None:
        hidden = hidden | (at < first.long().repeat_interleave(heads.group)[:, None])
    scores = scores.masked_fill(hidden, -torch.inf)
    top = scores.amax(-1)
    weights = (scores - top.where(top > -torch.inf, 0.0)[..., None]).exp()
    return weights @ values, top, weights.sum(-1)


def same_bits(first: AttentionTerm, second: AttentionTerm) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.sampled(1)
@needs_tile_compiler
@KV
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize(
    ("cap", "is_causal", "has_windows"), [(0.0, False, False), (0.0, True, False), (3.0, True, True)]
)
def test_tiles_and_vectors_have_the_same_bits_and_the_right_sums(
    emulated_tiles: OnlyTiles,
    shape: tuple[int, int, int],
    kv_cache: KvCache,
    cap: float,
    is_causal: bool,
    has_windows: bool,
) -> None:
    torch.manual_seed(sum(shape))
    heads = KvCacheSpec(2, *shape, torch.bfloat16, CPU, kv_cache=kv_cache)
    tokens = {1: 50, 2: 20, 3: 37, 4: 13, 16: 4}[heads.group]  # tasks of 48 rows, and remainders
    for count in KEYS if shape == SHAPES[1] else KEYS[-2:]:
        places = places_of(heads, emulated_tiles, count + tokens - 1)
        places = replace(places, sees=count, causal=is_causal)
        first = torch.arange(tokens, dtype=torch.int32) * 7 % (count + 9) if has_windows else None
        query = torch.randn(shape[0] * shape[1], tokens, heads.dim).bfloat16()
        found = {}
        before = emulated_tiles.count("products")
        for tile_rows in (1, 8, 17, NO_TILES):
            way = replace(heads, attention_tile_rows=tile_rows)
            found[tile_rows] = run_shared_key_attention_kernel(
                emulated_tiles, way, Scaling(0.2, cap), 0, query, None, tokens, places, first
            )
        assert emulated_tiles.count("products") > before
        assert all(same_bits(found[1], other) for other in found.values()), count
        out, top, total = expected(heads, query, places, first, cap)
        assert torch.equal(found[1][1] == -torch.inf, top == -torch.inf)
        assert torch.equal(found[1][2] == 0, total == 0), "what is not seen has no weight"
        sees = total > 0
        assert torch.allclose(found[1][1].double()[sees], top[sees], atol=1e-4)
        assert torch.allclose(found[1][2].double()[sees], total[sees], rtol=1e-4)
        means = [
            (some.double() / sums.double()[..., None])[sees]
            for some, sums in ((found[1][0], found[1][2]), (out, total))
        ]
        assert float((means[0] - means[1]).abs().max()) < 2e-2 * float(means[1].abs().max())
        assert bool((found[1][0][~sees] == 0).all())


@pytest.mark.thorough
@needs_tile_compiler
@KV
def test_scores_far_below_the_largest_have_no_weight(emulated_tiles: OnlyTiles, kv_cache: KvCache) -> None:
    """Weights that are too small for a float, down to those of scores 10,000 below the largest."""
    torch.manual_seed(4)
    heads = replace(HEADS, kv_cache=kv_cache, attention_tile_rows=1)
    places = replace(places_of(heads, emulated_tiles, 300), sees=300)
    for larger in (10, 100, 1000):
        query = (torch.randn(6, 20, 64) * larger).bfloat16()
        out, top, total = run_shared_key_attention_kernel(
            emulated_tiles, heads, Scaling(0.2, 0.0), 0, query, None, 20, places, None
        )
        wanted, _, sums = expected(heads, query, places, None, 0.0)
        assert bool((total > 0.99).all()), "the largest has the weight 1"
        assert bool(top.isfinite().all())
        off = out.double() / total.double()[..., None] - wanted / sums[..., None]
        assert float(off.abs().max()) < 3e-2 * float(wanted.abs().max()), larger


@pytest.mark.thorough
@needs_tile_compiler
@KV
def test_a_token_has_the_same_bits_whatever_goes_along(emulated_tiles: OnlyTiles, kv_cache: KvCache) -> None:
    """Alone by vectors or by tiles, among those that see less and more, on two threads; also of
    tiny numbers."""
    torch.manual_seed(1)
    for scale in (1.0, 1e-19, 1e-37):
        heads = replace(HEADS, kv_cache=kv_cache, attention_tile_rows=4)
        places = replace(places_of(heads, emulated_tiles, 600, scale), sees=500, causal=True)
        query = torch.randn(6, 90, 64).bfloat16()
        first = torch.randint(0, 580, (90,), dtype=torch.int32)
        together = run_shared_key_attention_kernel(
            emulated_tiles, heads, Scaling(0.2, 0.0), 0, query, None, 90, places, first
        )
        for at in (0, 1, 47, 88, 89):
            alone = replace(places, sees=500 + at, causal=False)
            for tile_rows in (1, 4):
                way = replace(heads, attention_tile_rows=tile_rows)
                part = run_shared_key_attention_kernel(
                    emulated_tiles,
                    way,
                    Scaling(0.2, 0.0),
                    0,
                    query,
                    torch.tensor([at]),
                    1,
                    alone,
                    first[at : at + 1],
                )
                rows = slice(3 * at, 3 * at + 3)
                assert same_bits(part, (together[0][:, rows], together[1][:, rows], together[2][:, rows])), (
                    scale,
                    at,
                )


@pytest.mark.sampled(5)
@needs_tile_compiler
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize(("cap", "has_windows"), [(0.0, False), (3.0, True)])
def test_own_keys_by_tiles_are_right_whatever_goes_along(
    emulated_tiles: OnlyTiles, shape: tuple[int, int, int], cap: float, has_windows: bool
) -> None:
    """Tokens that see fewer keys than a tile has, whole tiles, remainders, and more than are scored
    at a time."""
    torch.manual_seed(sum(shape))
    heads = KvCacheSpec(2, *shape, torch.bfloat16, CPU, attention_tile_rows=4)
    seen = torch.tensor([1, 2, 15, 16, 17, 31, 32, 33, 64, 200, 511, 512, 513, 540], dtype=torch.int32)
    stored = places_of(heads, emulated_tiles, 540)
    places = OwnKeyRanges(stored.store, torch.zeros_like(seen), seen, seen // 3 if has_windows else None)
    query = torch.randn(len(seen), shape[0] * shape[1], heads.dim).bfloat16()
    scaling = Scaling(0.2, cap)
    before = emulated_tiles.count("products")
    found = run_unshared_key_attention_kernel(emulated_tiles, heads, scaling, 0, query, places)
    assert emulated_tiles.count("products") > before
    for at, count in enumerate(seen.tolist()):
        first = None if places.first is None else places.first[at : at + 1]
        one = query[at : at + 1].transpose(0, 1)
        out, _, total = expected(heads, one, replace(stored, sees=count), first, cap)
        mean = (out / total[..., None]).view(-1, heads.dim)
        assert float((found[at].double() - mean).abs().max()) < 2e-2 * float(mean.abs().max()), count
        alone = OwnKeyRanges(stored.store, places.slot[:1], seen[at : at + 1], first)
        assert torch.equal(
            run_unshared_key_attention_kernel(emulated_tiles, heads, scaling, 0, query[at : at + 1], alone)[
                0
            ],
            found[at],
        )


@needs_tile_compiler
@pytest.mark.parametrize(
    "way", [replace(HEADS, attention_tile_rows=0), replace(HEADS, attention_tile_rows=NO_TILES),
            replace(HEADS, attention_tile_rows=1, dim=80), replace(HEADS, attention_tile_rows=1, kv_cache=KvCache.int8)],
    ids=["vectors", "vectors in the order of tiles", "no whole tiles", "keys in bytes"],
)  # fmt: skip
def test_other_own_keys_go_by_vectors(emulated_tiles: OnlyTiles, way: KvCacheSpec) -> None:
    torch.manual_seed(0)
    seen = torch.tensor([70], dtype=torch.int32)
    places = OwnKeyRanges(places_of(way, emulated_tiles, 70).store, torch.zeros_like(seen), seen)
    query, before = torch.randn(1, 6, way.dim).bfloat16(), emulated_tiles.count("loads")
    found = run_unshared_key_attention_kernel(emulated_tiles, way, Scaling(0.1, 0.0), 0, query, places)
    plain = run_unshared_key_attention_kernel(
        emulated_tiles, replace(way, attention_tile_rows=0), Scaling(0.1, 0.0), 0, query, places
    )
    assert emulated_tiles.count("loads") == before
    assert torch.equal(found, plain)


@needs_tile_compiler
def test_heads_that_are_no_whole_tiles_and_other_formats_stay_with_vectors(emulated_tiles: OnlyTiles) -> None:
    heads = replace(HEADS, dim=80, attention_tile_rows=1)
    torch.manual_seed(0)
    places, query = places_of(heads, emulated_tiles, 70), torch.randn(6, 30, 80).bfloat16()
    before = emulated_tiles.count("loads")
    parts = [
        run_shared_key_attention_kernel(
            emulated_tiles, way, Scaling(0.1, 0.0), 0, query, None, 30, places, None
        )
        for way in (heads, replace(heads, attention_tile_rows=0))
    ]
    assert same_bits(*parts)
    assert emulated_tiles.count("loads") == before
    assert find_tiled_kernel_problem(heads, emulated_tiles) == note("heads_not_whole_tiles", dim=80, width=32)
    floats = replace(HEADS, dtype=torch.float32)
    assert find_tiled_kernel_problem(floats, emulated_tiles) == note("keys_not_bfloat16", dtype="float32")
    assert find_tiled_kernel_problem(HEADS, emulated_tiles) is None
    assert compare_tiled_and_vector_attention(HEADS.group, HEADS.dim, HEADS.kv_cache, emulated_tiles) is None


@needs_tile_compiler
def test_places_that_do_not_exist_are_refused_by_tiles_too(emulated_tiles: OnlyTiles) -> None:
    heads = replace(HEADS, attention_tile_rows=1)
    places, query = places_of(heads, emulated_tiles, 40), torch.randn(6, 9, 64).bfloat16()
    ask = [
        (replace(places, sees=49), None, 9, None, refusal("WRONG_PART")),
        (replace(places, sees=41, causal=True), None, 9, None, refusal("WRONG_PART")),
        (places, torch.tensor([0, 9]), 2, None, refusal("WRONG_PART_TOKEN", 1)),
        (places, None, 9, torch.full((9,), -1, dtype=torch.int32), refusal("WRONG_FIRST", 0)),
    ]
    for where, chosen, count, first, message in ask:
        with pytest.raises(IndexError, match=message):
            run_shared_key_attention_kernel(
                emulated_tiles, heads, Scaling(0.2, 0.0), 0, query, chosen, count, where, first
            )


@processors.needs("amx", why="the other tests emulate it")
@KV
def test_real_tiles_pass_the_trial(kv_cache: KvCache) -> None:
    compiled = native.load_kernels()
    assert compiled is not None
    if compiled.tile_kernel_problem:
        pytest.skip(render_engine_note(compiled.tile_kernel_problem))
    for group, dim in ((1, 32), (3, 64), (8, 128)):
        assert find_tiled_kernel_problem(replace(HEADS, dim=dim), compiled) is None
        assert compare_tiled_and_vector_attention(group, dim, kv_cache, compiled) is None
