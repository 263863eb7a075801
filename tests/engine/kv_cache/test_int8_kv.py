"""Keys and values in 8 bits: what is stored; attention over it is tested beside that over other
formats."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attending import WAYS, heads_for, ints, kernels_or_none, on_the_device_of_the_way, random, shared_kv

from runner_engine.attention.attention import PassLayout
from runner_engine.kernels import native
from runner_engine.kv_cache.formats import int8
from runner_engine.kv_cache.kv_arenas import KvArenaStore
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.prefix_tree import ConversationCache
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.shared_kv import create_kv_store
from runner_engine.settings.kv_cache import KvCache

__all__ = ["on_the_device_of_the_way"]
CPU = torch.device("cpu")
FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])


def heads_of(
    shape: tuple[int, int, int], dtype: torch.dtype, layers: int = 1, way: str = "torch"
) -> KvCacheSpec:
    return replace(heads_for(way, layers, *shape, dtype), kv_cache=KvCache.int8)


@FORMATS
@pytest.mark.parametrize("dim", [16, 80, 128])
def test_kernels_and_torch_store_the_same_bits(dim: int, dtype: torch.dtype) -> None:
    kernels = native.load_kernels()
    if kernels is None:
        pytest.skip("there is no C compiler here")
    heads, generator = heads_of((3, 1, dim), dtype, layers=2), torch.Generator().manual_seed(dim)
    keys, values = (random(generator, 37, 3, dim, dtype=dtype) * 5 for _ in range(2))
    keys[3, 1], keys[5, 2, 7], keys[6, 0, 0], values[4], values[9, 1, 2] = (
        0.0,
        torch.nan,
        torch.inf,
        1e-38,
        -torch.inf,
    )
    own, other = create_kv_store(heads, kernels, [40, 40]), create_kv_store(heads, kernels, [50])
    order = torch.randperm(37, generator=generator)
    own.write(1, keys[order], values[order], ints([1] * 37), order.int())
    for got, given in zip(own.read_stored_kv(1, 1, 37), (keys, values), strict=True):
        rows = int8.encode_kv(given.transpose(0, 1))
        scales = [some[..., dim:].contiguous().view(torch.float32) for some in (got, rows)]
        assert torch.equal(got[..., :dim], rows[..., :dim])
        assert torch.equal(scales[0].nan_to_num(-1), scales[1].nan_to_num(-1))
    assert not bool(torch.cat(own.read_stored_kv(1, 0, 40)).any()), "no neighbour is touched"
    assert not bool(torch.cat(own.read_stored_kv(0, 1, 40)).any())
    other.write_stored(1, *own.read_stored_kv(1, 1, 37))
    assert all(map(torch.equal, other.read_stored_kv(1, 0, 37), own.read_stored_kv(1, 1, 37))), (
        "a copy has the same bits"
    )
    numbers = own.read(1, 1, 37)[0].float()
    assert bool(numbers[2, 5].isnan().all()), "what is not a number does not become one"
    assert bool((numbers[0, 6].isnan()).all())
    assert not bool(numbers[1, 3].any())
    sound = numbers[:, 10:] - keys[10:].transpose(0, 1).float()
    # half a step; bfloat16 rounds the result again
    most = keys[10:].transpose(0, 1).float().abs().amax(dim=-1, keepdim=True)
    assert bool((sound.abs() <= most * (0.5 / 127 + (2**-8 if dtype == torch.bfloat16 else 1e-6))).all())


@FORMATS
def test_the_cache_takes_a_byte_for_each_number_and_four_for_each_scale(dtype: torch.dtype) -> None:
    plain, eight = KvCacheSpec(2, 3, 1, 64, dtype, CPU), heads_of((3, 1, 64), dtype, layers=2)
    assert eight.bytes_per_token / plain.bytes_per_token == 68 / (64 * dtype.itemsize)
    for way in ("kernels", "torch"):
        own = [create_kv_store(heads, kernels_or_none(way), [160]) for heads in (plain, eight)]
        nbytes = [sum(tensor.nbytes for tensor in store.get_slot_tensors(0)) for store in own]
        assert nbytes == [160 * plain.bytes_per_token, 160 * eight.bytes_per_token]


@WAYS
@FORMATS
def test_a_key_without_numbers_reaches_only_its_own_row(dtype: torch.dtype, way: str) -> None:
    heads, kernels = heads_of((1, 2, 16), dtype, way=way), kernels_or_none(way)
    own = create_kv_store(heads, kernels, [20, 20])
    query, keys, values = (torch.ones(rows, 2, 16, dtype=dtype) for rows in (2, 1, 1))
    keys[0, 1, 3] = torch.nan
    layout = PassLayout(heads, kernels, own, ints([0, 1]), ints([0, 0]), ints([1, 1]), is_step=True)
    result = layout.attend(0, query, keys, values, 1.0)
    assert torch.allclose(result[0].float(), torch.ones(2, 16))
    assert bool(result[1].isnan().all())


@WAYS
@FORMATS
def test_a_conversation_keeps_the_bits_of_its_row(dtype: torch.dtype, way: str) -> None:
    """Its prefix and its own places are joined without a second rounding."""
    heads, kernels = heads_of((2, 1, 16), dtype, way=way), kernels_or_none(way)
    generator = torch.Generator().manual_seed(2)
    keys, values = (random(generator, 2, 61, 16, dtype=dtype) for _ in range(2))
    prefix = Prefix(list(range(21)), kv=shared_kv(heads, kernels, [keys[:, :21]], [values[:, :21]]))
    own = create_kv_store(heads, kernels, [40])
    given = [one[:, 21:].transpose(0, 1) for one in (keys, values)]
    own.write(0, given[0], given[1], ints([0] * 40), ints(list(range(40))))
    conversations = ConversationCache()
    conversations.cache_sequence_kv([*range(61), 7], SequenceKv(prefix, places=40), own, 0, 10_000)
    kept = conversations.find_cached_prefix([*range(61), 7, 8])
    assert kept is not None
    assert kept.length == 61
    assert all(map(torch.equal, kept.kv.read_stored_kv(0), (int8.encode_kv(one) for one in (keys, values))))
    assert isinstance(own, KvArenaStore) == (kernels is not None)
