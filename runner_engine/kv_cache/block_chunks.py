"""Memory of the prompt cache: blocks of keys and values in chunks that are allocated when they are needed.

A chunk is a KV store with a slot for each of its blocks. Chunk n holds the places from
n · chunk_blocks on. When the cache shrinks, blocks move out of the chunks that are dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache.first_tokens import copy_tensors
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore
from runner_engine.kv_cache.slots import SlotStore

MAX_CHUNKS = 64
MIN_CHUNK_BLOCKS = 64  # a chunk has a tensor for each layer, which takes at least a memory page
INDEX_NBYTES = 1024  # Python objects that find one block: half of it, by tracemalloc


def compute_block_nbytes(kv_spec: KvCacheSpec) -> int:
    """Return the memory of one cached block.

    Each block has room for first tokens, though only those at the beginning of a prompt need it.
    """
    return LANES * kv_spec.bytes_per_token + kv_spec.first_tokens_nbytes + INDEX_NBYTES


class BlockChunks:
    """Places for blocks of keys and values, at most `max_blocks`."""

    def __init__(self, kv_spec: KvCacheSpec, max_blocks: int) -> None:
        self.heads, self.block_nbytes = kv_spec, compute_block_nbytes(kv_spec)
        self.chunk_blocks = min(max(-(-max_blocks // MAX_CHUNKS), MIN_CHUNK_BLOCKS), max_blocks)
        self._max_chunks = max_blocks // self.chunk_blocks
        self._chunks: list[SlotStore] = []
        self._free: list[int] = []  # places that were used before
        self._unused_from = 0  # this place and all after it were never used

    @property
    def allocated_blocks(self) -> int:
        return len(self._chunks) * self.chunk_blocks

    @property
    def resident_blocks(self) -> int:
        """Blocks that take memory. On a CPU, places that were never used take none."""
        return self._unused_from if self.heads.device.type == "cpu" else self.allocated_blocks

    def limit_blocks(self, max_blocks: int) -> int:
        """Return how many blocks may be stored in whole chunks, if there is memory for max_blocks."""
        return min(max_blocks // self.chunk_blocks, self._max_chunks) * self.chunk_blocks

    def allocate_block(self, max_blocks: int) -> int | None:
        """Return a free place, or None if `max_blocks` places are in use."""
        if self._free:
            return self._free.pop()
        if self._unused_from >= max_blocks:
            return None
        if self._unused_from == self.allocated_blocks:
            self._chunks.append(SlotStore(self.heads, self.chunk_blocks, LANES))
        self._unused_from += 1
        return self._unused_from - 1

    def free_block(self, place: int) -> None:
        self._free.append(place)

    def free_chunks_and_move_blocks(self, num_kept: int, places: Sequence[int]) -> list[int]:
        """Free all chunks but num_kept, and return the new place of each block.

        places: all blocks in use. They fit into the chunks that are kept, which are those with the most
        blocks.
        """
        size = self.chunk_blocks
        used = Counter(place // size for place in places)
        kept = sorted(sorted(range(len(self._chunks)), key=lambda chunk: -used[chunk])[:num_kept])
        number = {old: new for new, old in enumerate(kept)}
        moved = [at for at, place in enumerate(places) if place // size not in number]
        renamed = {
            at: number[place // size] * size + place % size
            for at, place in enumerate(places)
            if place // size in number
        }
        in_use = set(renamed.values())
        free = [place for place in range(num_kept * size) if place not in in_use]
        renamed |= dict(zip(moved, free, strict=False))
        chunks = [self._chunks[old] for old in kept]
        pairs: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for at in moved:
            pairs.setdefault((places[at] // size, renamed[at] // size), []).append(
                (places[at] % size, renamed[at] % size)
            )
        for (source, target), rows in pairs.items():
            before, after = self._index_tensors(rows)
            for old, new in zip(
                _list_tensors(self._chunks[source]), _list_tensors(chunks[target]), strict=True
            ):
                new[after] = old[before]
        self._chunks, self._unused_from = chunks, num_kept * size
        self._free = free[len(moved) :]
        return [renamed[at] for at in range(len(places))]

    def copy_to_slot(self, places: Sequence[int], kv_store: KvStore, slot: int) -> None:
        """Copy blocks to the beginning of a slot."""
        for chunk, in_slot, in_chunk in self._group_by_chunk(list(enumerate(places))):
            for stored, of_slot in self._iter_chunk_and_slot_blocks(chunk, kv_store, slot):
                of_slot[:, in_slot] = stored[in_chunk].transpose(0, 1)

    def copy_from_slot(self, blocks: Sequence[tuple[int, int]], kv_store: KvStore, slot: int) -> None:
        """Copy blocks of a slot. Each pair names the block in the slot and the place of its copy."""
        for chunk, in_slot, in_chunk in self._group_by_chunk(blocks):
            for stored, of_slot in self._iter_chunk_and_slot_blocks(chunk, kv_store, slot):
                stored[in_chunk] = of_slot[:, in_slot].transpose(0, 1)

    def copy_first_tokens_to_slot(self, place: int, kv_store: KvStore, slot: int) -> None:
        copy_tensors(self._first_token_tensors(place), kv_store.get_first_token_tensors(slot))

    def copy_first_tokens_from_slot(self, place: int, kv_store: KvStore, slot: int) -> None:
        copy_tensors(kv_store.get_first_token_tensors(slot), self._first_token_tensors(place))

    def _first_token_tensors(self, place: int) -> list[torch.Tensor]:
        return self._chunks[place // self.chunk_blocks].get_first_token_tensors(place % self.chunk_blocks)

    def _group_by_chunk(
        self, blocks: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[SlotStore, torch.Tensor, torch.Tensor]]:
        """Yield each chunk with the indices of its blocks in the slot and in the chunk."""
        groups: dict[int, list[tuple[int, int]]] = {}
        for in_slot, place in blocks:
            groups.setdefault(place // self.chunk_blocks, []).append((in_slot, place % self.chunk_blocks))
        for chunk, pairs in groups.items():
            yield self._chunks[chunk], *self._index_tensors(pairs)

    def _index_tensors(self, pairs: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = (torch.tensor(some, device=self.heads.device) for some in zip(*pairs, strict=True))
        return first, second

    def _iter_chunk_and_slot_blocks(
        self, chunk: SlotStore, kv_store: KvStore, slot: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield pairs of tensors: a chunk's blocks, and the slot's tensor split into blocks.

        The shapes are [block, KVH, LANES, W] and [KVH, block, LANES, W].
        """
        for stored, of_slot in zip(
            (*chunk.keys, *chunk.values), kv_store.get_slot_tensors(slot), strict=True
        ):
            yield stored, of_slot.view(kv_store.heads.kv_heads, -1, LANES, stored.shape[-1])


def _list_tensors(chunk: SlotStore) -> list[torch.Tensor]:
    return [*chunk.keys, *chunk.values, *chunk.first.tensors]
