"""A KV arena for each row: keys and values of all its layers in its own memory pages, for the
kernels.

An arena has as many places as its row may need; a place takes no memory before it is written, nor
when no token can see it any more (behind_windows.py). So a long row does not make short rows
larger, and nothing is copied when rows grow, leave or change their slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kernels import native
from runner_engine.kernels.shared_numbers import LANES
from runner_engine.kv_cache.behind_windows import FreedPlaces, frees_places, page_places
from runner_engine.kv_cache.kv_cache import Heads, OwnKv, rounded

# of its places; the rest of such an arena may be in memory before it is written
FILLED_AT_ONCE = 0.75


class KvArena:
    """Keys and values of one row in all layers, in the kernels' layout (kernels/attention.h).

    held: places that are filled at once. Where these are most of it, an arena is in large pages: a
    long row is read at each token, and in small ones the processor looks up an address every 4 KiB.
    """

    def __init__(self, heads: Heads, places: int, held: int = 0) -> None:
        self.capacity = _capacity(heads, places)
        is_filled = held >= FILLED_AT_ONCE * places and not frees_places(heads)
        (self.keys, self.values), self.first = heads.empty_layers(self.capacity, is_filled)
        begins = [layers[0].data_ptr() if layers else 0 for layers in (self.keys, self.values)]
        self.address = [*begins, self.capacity, heads.first_plain]
        self.filled = 0  # places that were ever written, and so take memory unless they are freed
        self.freed = FreedPlaces(heads, self.address[:2], self.capacity) if frees_places(heads) else None
        self.is_whole = False  # nothing of it may be freed

    @property
    def held(self) -> int:
        """The memory that it takes, in tokens."""
        return self.filled if self.freed is None else self.filled - self.freed.tokens

    def fill(self, places: int) -> None:
        """Note how many places hold tokens; free those that no later token sees."""
        self.filled = max(self.filled, places)
        if self.freed is not None and not self.is_whole:
            self.freed.free_behind(places)


class KvArenas(OwnKv):
    """An arena for each row, as large as the row may need; arenas of rows that have left are
    reused."""

    kernels: native.Kernels

    def __init__(self, heads: Heads, kernels: native.Kernels) -> None:
        self.heads, self.kernels = heads, kernels
        self.arenas: list[KvArena] = []
        self._spare: list[
            KvArena
        ] = []  # their pages are allocated already, so a row starts faster in one of these
        self._number()

    @property
    def table(self) -> torch.Tensor:
        """Addresses and capacity of each arena."""
        return self._table

    @staticmethod
    def cost(needs: Sequence[int]) -> int:
        return sum(map(rounded, needs))

    @property
    def held(self) -> int:
        """Places that were ever written, without what was freed of them."""
        return sum(arena.held for arena in (*self.arenas, *self._spare))

    def enter(self, at: int, count: int, needs: Sequence[int], held: Sequence[int], most: int) -> None:
        """Give each row that enters an arena."""
        last = at + count
        entering = zip(needs[at:last], held[at:last], strict=True)
        self.arenas[at:at] = [self._arena(need, some) for need, some in entering]
        self._number()

    def leave(self, slot: int, active: int, is_sound: bool = True) -> None:
        """Remove an arena; the last row gets its number."""
        if is_sound and not self.freed(slot):
            self._spare.append(self.arenas[slot])
        self.arenas[slot] = self.arenas[active - 1]
        del self.arenas[active - 1]
        self._number()

    def lengthen(self, places: int, need: int) -> None:
        """Do nothing: an arena has all places that its row may need."""

    def fill(self, slot: int, places: int) -> None:
        """Note how many places of an arena hold tokens."""
        self.arenas[slot].fill(places)

    def keep_whole(self, slot: int) -> None:
        """Free nothing of a row while it grows."""
        self.arenas[slot].is_whole = True

    def first_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values, in the model's numbers."""
        return self.arenas[slot].first

    def set_beginning(self, slot: int, is_beginning: bool) -> None:
        """Note whether an arena's first tokens are those of a text."""
        if self.heads.first_plain:
            self.arenas[slot].address[-1] = self.heads.first_plain if is_beginning else 0
            self._number()

    def freed(self, slot: int) -> int:
        """Return how many tokens the memory would have room for that a row has given back behind
        its windows."""
        freed = self.arenas[slot].freed
        return 0 if freed is None else freed.tokens

    def freed_before_pass(self) -> int:
        """Return the same of all rows, before the last pass; the next one begins."""
        if self.arenas and self.arenas[0].freed is None:
            return 0
        freed = [arena.freed for arena in self.arenas if arena.freed is not None]
        tokens = sum(one.before for one in freed)
        for one in freed:
            one.before = one.tokens
        return tokens

    def keep_spare(self, most: int) -> bool:
        """Free arenas that no row uses, the longest unused first."""
        before = len(self._spare)
        while self._spare and sum(arena.held for arena in self._spare) > most:
            self._spare.pop(0)
        return len(self._spare) < before

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor
    ) -> None:
        """Put keys and values [T, KVH, D] of a layer into their arenas and places."""
        keys, values, heads, tokens = keys.contiguous(), values.contiguous(), self.heads, len(slot)
        shape = tokens, heads.kv_heads, heads.dim
        self.kernels(
            heads.kernel("store"),
            heads.dtype,
            *(native.pointer(one, heads.dtype, *shape) for one in (keys, values)),
            self.table.data_ptr(),
            len(self.table),
            heads.kernel_layer(layer),
            heads.kv_heads,
            heads.dim,
            tokens,
            native.pointer(slot, torch.int32, tokens),
            native.pointer(place, torch.int32, tokens),
        )

    def stored(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, W] of a row, as copies in the usual layout."""
        arena, pair, dim, whole = self.arenas[slot], self._pair, self.heads.dim, rounded(places)
        of_keys, of_values = self.heads.formats(layer)
        keys = of_keys.rows_of_blocks(arena.keys[layer][:, :whole], dim, pair, is_keys=True)
        values = of_values.rows_of_blocks(arena.values[layer][:, :whole], dim, pair, is_keys=False)
        return keys[:, :places], values[:, :places]

    def put_stored(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values [KVH, places, W] into the first places of the first arena."""
        if not self.heads.in_bytes:
            place = torch.arange(keys.shape[1], dtype=torch.int32)
            self.write(layer, keys.transpose(0, 1), values.transpose(0, 1), torch.zeros_like(place), place)
            return
        (of_keys, of_values), pair, dim = self.heads.formats(layer), self._pair, self.heads.dim
        of_keys.put_rows(self.arenas[0].keys[layer], keys, dim, pair, is_keys=True)
        of_values.put_rows(self.arenas[0].values[layer], values, dim, pair, is_keys=False)

    @property
    def _pair(self) -> int:
        """How many dimensions of a key, and places of a value, lie side by side."""
        return 2 if self.heads.dtype == torch.bfloat16 else 1

    def tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values, in blocks of places."""
        return [*self.arenas[slot].keys, *self.arenas[slot].values]

    def _arena(self, need: int, held: int) -> KvArena:
        """Return the smallest unused arena that is large enough, but not far too large; else a new
        one."""
        capacity = _capacity(self.heads, need)
        fitting = [arena for arena in self._spare if capacity <= arena.capacity <= 2 * capacity]
        if not fitting:
            return KvArena(self.heads, need, held)
        best = min(fitting, key=lambda arena: arena.capacity)
        self._spare.remove(best)
        best.is_whole, best.address[-1] = False, self.heads.first_plain
        return best

    def _number(self) -> None:
        self._table = torch.tensor([arena.address for arena in self.arenas], dtype=torch.int64).view(-1, 4)


def _capacity(heads: Heads, places: int) -> int:
    """Return the places of an arena; where some are freed while it is used, each head has memory
    pages of its own."""
    return rounded(places, page_places(heads) if frees_places(heads) else LANES)
