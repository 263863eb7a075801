"""KV store for the C kernels. Each sequence has one memory arena with its keys and values of all layers.

An arena has as many positions as its sequence may need. A position takes no memory before
it is written, or once no token can attend to it (window_memory.py). So a long sequence
does not enlarge short ones, and nothing is copied when sequences grow, leave or change
their slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kernels import native
from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore, round_up_positions
from runner_engine.kv_cache.window_memory import (
    FreedPositions,
    can_free_positions,
    compute_page_aligned_positions,
)

# of its places; the rest of such an arena may be in memory before it is written
FILLED_AT_ONCE = 0.75


class KvArena:
    """Keys and values of one sequence in all layers, in the memory layout of kernels/attention.h.

    If most positions are filled at once, an arena uses large pages: a long sequence is read
    at each token, and with small pages the processor translates an address every 4 KiB.
    """

    def __init__(self, kv_spec: KvCacheSpec, max_positions: int, num_filled: int = 0) -> None:
        self.capacity = _arena_capacity(kv_spec, max_positions)
        is_filled = num_filled >= FILLED_AT_ONCE * max_positions and not can_free_positions(kv_spec)
        (self.keys, self.values), self.first = kv_spec.allocate_kv_layers(self.capacity, is_filled)
        begins = [layers[0].data_ptr() if layers else 0 for layers in (self.keys, self.values)]
        self.address = [*begins, self.capacity, kv_spec.num_unquantized_first]
        self.filled = 0  # places that were ever written, and so take memory unless they are freed
        self.freed = (
            FreedPositions(kv_spec, self.address[:2], self.capacity) if can_free_positions(kv_spec) else None
        )
        self.is_whole = False  # nothing of it may be freed

    @property
    def resident_tokens(self) -> int:
        return self.filled if self.freed is None else self.filled - self.freed.tokens

    def set_num_filled(self, num_positions: int) -> None:
        """Record the number of stored positions.

        Frees positions that no later token attends to.
        """
        self.filled = max(self.filled, num_positions)
        if self.freed is not None and not self.is_whole:
            self.freed.free_before_window(num_positions)


class KvArenaStore(KvStore):
    """KV store that allocates one memory arena per sequence, and reuses the arenas of finished sequences."""

    kernels: native.Kernels

    def __init__(self, kv_spec: KvCacheSpec, kernels: native.Kernels) -> None:
        self.heads, self.kernels = kv_spec, kernels
        self.arenas: list[KvArena] = []
        self._spare: list[
            KvArena
        ] = []  # their pages are allocated already, so a row starts faster in one of these
        self._update_address_table()

    @property
    def address_table(self) -> torch.Tensor:
        """Memory addresses and capacity of each arena, for the C kernels."""
        return self._table

    @staticmethod
    def count_required_positions(max_positions: Sequence[int]) -> int:
        return sum(map(round_up_positions, max_positions))

    @property
    def resident_tokens(self) -> int:
        """Number of positions that were written and are still in memory."""
        return sum(arena.resident_tokens for arena in (*self.arenas, *self._spare))

    def insert_slots(
        self,
        first_slot: int,
        count: int,
        max_positions: Sequence[int],
        num_filled: Sequence[int],
        expected_sequences: int,
    ) -> None:
        last = first_slot + count
        entering = zip(max_positions[first_slot:last], num_filled[first_slot:last], strict=True)
        self.arenas[first_slot:first_slot] = [
            self._reuse_or_allocate_arena(need, some) for need, some in entering
        ]
        self._update_address_table()

    def remove_slot(self, slot: int, num_active: int, has_no_nan: bool = True) -> None:
        """Remove the arena of a slot. The last active sequence moves to the free slot."""
        if has_no_nan and not self.count_freed_tokens(slot):
            self._spare.append(self.arenas[slot])
        self.arenas[slot] = self.arenas[num_active - 1]
        del self.arenas[num_active - 1]
        self._update_address_table()

    def ensure_capacity(self, num_positions: int, max_positions: int) -> None:
        """Do nothing, because each arena is allocated for the maximum length of its sequence."""

    def set_num_filled(self, slot: int, num_positions: int) -> None:
        self.arenas[slot].set_num_filled(num_positions)

    def disable_freeing(self, slot: int) -> None:
        """Keep all positions of a sequence in memory, even outside its sliding windows."""
        self.arenas[slot].is_whole = True

    def get_first_token_tensors(self, slot: int) -> list[torch.Tensor]:
        return self.arenas[slot].first

    def set_text_start(self, slot: int, is_text_start: bool) -> None:
        if self.heads.num_unquantized_first:
            self.arenas[slot].address[-1] = self.heads.num_unquantized_first if is_text_start else 0
            self._update_address_table()

    def count_freed_tokens(self, slot: int) -> int:
        freed = self.arenas[slot].freed
        return 0 if freed is None else freed.tokens

    def pop_freed_tokens(self) -> int:
        if self.arenas and self.arenas[0].freed is None:
            return 0
        freed = [arena.freed for arena in self.arenas if arena.freed is not None]
        tokens = sum(one.before for one in freed)
        for one in freed:
            one.before = one.tokens
        return tokens

    def free_unused(self, max_tokens: int) -> bool:
        """Free unused arenas, oldest first, until the remaining ones hold at most max_tokens."""
        before = len(self._spare)
        while self._spare and sum(arena.resident_tokens for arena in self._spare) > max_tokens:
            self._spare.pop(0)
        return len(self._spare) < before

    def write(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        keys, values, heads, tokens = keys.contiguous(), values.contiguous(), self.heads, len(slots)
        shape = tokens, heads.kv_heads, heads.dim
        self.kernels(
            heads.kernel_name("store"),
            heads.dtype,
            *(native.get_tensor_address(one, heads.dtype, *shape) for one in (keys, values)),
            self.address_table.data_ptr(),
            len(self.address_table),
            heads.get_kernel_layer_address(layer),
            heads.kv_heads,
            heads.dim,
            tokens,
            native.get_tensor_address(slots, torch.int32, tokens),
            native.get_tensor_address(positions, torch.int32, tokens),
        )

    def read_stored_kv(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the stored vectors [KVH, positions, W] of a sequence, ordered by position."""
        arena, pair, dim, whole = (
            self.arenas[slot],
            self._pair_size,
            self.heads.dim,
            round_up_positions(num_positions),
        )
        of_keys, of_values = self.heads.get_layer_kv_formats(layer)
        keys = of_keys.read_kv_blocks(arena.keys[layer][:, :whole], dim, pair, is_keys=True)
        values = of_values.read_kv_blocks(arena.values[layer][:, :whole], dim, pair, is_keys=False)
        return keys[:, :num_positions], values[:, :num_positions]

    def write_stored(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write stored vectors [KVH, positions, W] to the first positions of the first arena."""
        if not self.heads.is_quantized:
            place = torch.arange(keys.shape[1], dtype=torch.int32)
            self.write(layer, keys.transpose(0, 1), values.transpose(0, 1), torch.zeros_like(place), place)
            return
        (of_keys, of_values), pair, dim = (
            self.heads.get_layer_kv_formats(layer),
            self._pair_size,
            self.heads.dim,
        )
        of_keys.write_kv_blocks(self.arenas[0].keys[layer], keys, dim, pair, is_keys=True)
        of_values.write_kv_blocks(self.arenas[0].values[layer], values, dim, pair, is_keys=False)

    @property
    def _pair_size(self) -> int:
        """Number of adjacent elements that the block layout interleaves: 2 in bfloat16, otherwise 1."""
        return 2 if self.heads.dtype == torch.bfloat16 else 1

    def get_slot_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return the keys of all layers, followed by the values, in the block layout of the kernels."""
        return [*self.arenas[slot].keys, *self.arenas[slot].values]

    def _reuse_or_allocate_arena(self, max_positions: int, num_filled: int) -> KvArena:
        """Return the smallest unused arena that is large enough, or allocate a new arena.

        An arena fits if it has one to two times the needed size.
        """
        capacity = _arena_capacity(self.heads, max_positions)
        fitting = [arena for arena in self._spare if capacity <= arena.capacity <= 2 * capacity]
        if not fitting:
            return KvArena(self.heads, max_positions, num_filled)
        best = min(fitting, key=lambda arena: arena.capacity)
        self._spare.remove(best)
        best.is_whole, best.address[-1] = False, self.heads.num_unquantized_first
        return best

    def _update_address_table(self) -> None:
        self._table = torch.tensor([arena.address for arena in self.arenas], dtype=torch.int64).view(-1, 4)


def _arena_capacity(kv_spec: KvCacheSpec, max_positions: int) -> int:
    """Return the capacity of a new arena, in positions.

    If positions can be freed, each head fills whole memory pages.
    """
    return round_up_positions(
        max_positions, compute_page_aligned_positions(kv_spec) if can_free_positions(kv_spec) else LANES
    )
