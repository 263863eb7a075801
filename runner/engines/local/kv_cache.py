"""The KV cache of the scheduler: what several rows share, once, and what each row has of its own, in slots."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch

from runner.core.machine import MIB
from runner.engines.local.kernels import native
from runner.engines.local.memory import free_mib
from runner.engines.local.windows import Window

SHARE_OF_MEMORY = 0.5  # of what is free, for keys and values; activations need room, too


@dataclass
class Heads:
    """The shape of attention as it is stored: the same in all layers; what is less in one of them is filled up."""

    layers: int
    kv_heads: int
    group: int  # query heads for each key-value head
    dim: int
    dtype: torch.dtype
    device: torch.device
    windows: tuple[Window | None, ...] = ()  # of each layer, None = it sees all; empty where they are not known

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.dim * self.dtype.itemsize


def room_tokens(heads: Heads, held: int = 0) -> int:
    """Return how many tokens' keys and values memory has room for, with those that are held already."""
    return int((free_mib(heads.device) * MIB / heads.bytes_per_token + held) * SHARE_OF_MEMORY)


class OwnKv:
    """A slot a row, a place a token. With kernels, keys lie in their blocks; else as [slot, KVH, place, D]."""

    def __init__(self, heads: Heads, slots: int, capacity: int, kernels: native.Kernels | None) -> None:
        self.heads, self.slots, self.capacity, self.kernels = heads, slots, _rounded(capacity), kernels
        self.keys = [self._empty(slots, self.capacity) for _ in range(heads.layers)]
        self.values = [self._empty(slots, self.capacity) for _ in range(heads.layers)]
        self.filled = [0] * slots  # the most places of each that ever held a token, and so take memory

    @property
    def held(self) -> int:
        """Tokens' worth of memory that it takes; on a CPU, what was never written takes none."""
        return sum(self.filled) if self.heads.device.type == "cpu" else self.slots * self.capacity

    def fill(self, slot: int, places: int) -> None:
        """Note how many places of a slot hold tokens."""
        self.filled[slot] = max(self.filled[slot], places)

    def _empty(self, slots: int, capacity: int) -> torch.Tensor:
        heads = self.heads
        shape = (slots, heads.kv_heads, capacity, heads.dim)
        # zeros, because a masked key must still be a number
        if heads.device.type != "cpu":
            return torch.zeros(shape, dtype=heads.dtype, device=heads.device)
        # pages of its own, which cost nothing until they are written, and go back when the store does
        size = math.prod(shape) * heads.dtype.itemsize
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=heads.dtype).view(shape)

    def grow(self, slots: int, capacity: int, used: int) -> None:
        """Make room for more slots, or more places in each, a layer at a time; the first `used` slots are copied."""
        capacity = _rounded(capacity)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                new = self._empty(slots, capacity)
                # blocks of places follow one another, so this holds for both layouts
                new[:used, :, : self.capacity] = old[:used]
                tensors[layer] = new
        self.filled = [self.capacity] * used + [0] * (slots - used)
        self.slots, self.capacity = slots, capacity

    def move(self, source: int, target: int, places: int) -> None:
        """Copy a row into another slot."""
        places = min(_rounded(places), self.capacity)
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :places] = tensor[source, :, :places]

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor
    ) -> None:
        """Put keys and values [T, KVH, D] of a layer into their slots and places (both int32 [T])."""
        if self.kernels is None:
            self.keys[layer][slot.long(), :, place.long()] = keys
            self.values[layer][slot.long(), :, place.long()] = values
            return
        keys, values, heads = keys.contiguous(), values.contiguous(), self.heads
        self.kernels(
            "store", heads.dtype, keys.data_ptr(), values.data_ptr(),
            self.keys[layer].data_ptr(), self.values[layer].data_ptr(),
            heads.kv_heads, heads.dim, self.capacity, slot.shape[0], slot.data_ptr(), place.data_ptr(),
        )  # fmt: skip

    def read(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, D] of a row."""
        keys, values = self.keys[layer][slot], self.values[layer][slot]
        if self.kernels is not None:  # they have an order of their own, which attention.c describes
            kv_heads, dim, pair = self.heads.kv_heads, self.heads.dim, 2 if self.heads.dtype == torch.bfloat16 else 1
            keys = keys.view(kv_heads, -1, dim // pair, native.LANES, pair).permute(0, 1, 3, 2, 4)
            values = values.view(kv_heads, self.capacity // pair, dim, pair).transpose(2, 3)
            keys, values = keys.reshape(kv_heads, -1, dim), values.reshape(kv_heads, -1, dim)
        return keys[:, :places], values[:, :places]


class SharedKv:
    """Keys and values that many rows read: the first places of a store with a single slot."""

    def __init__(self, store: OwnKv, length: int) -> None:
        self.store, self.length = store, length

    @classmethod
    def empty(cls, heads: Heads, length: int, kernels: native.Kernels | None) -> SharedKv:
        """Make room for a prefix, in the order in which it will be read."""
        return cls(OwnKv(heads, 1, length, kernels if kernels and kernels.has_shared else None), length)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put all keys and values [KVH, L, D] of a layer."""
        place = torch.arange(self.length, dtype=torch.int32, device=keys.device)
        self.store.write(layer, keys.transpose(0, 1), values.transpose(0, 1), torch.zeros_like(place), place)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, L, D] of a layer."""
        return self.store.read(layer, 0, self.length)

    def beginning(self, length: int) -> SharedKv:
        """Return the first so many of them, of the same store."""
        return SharedKv(self.store, length)


def _rounded(places: int) -> int:
    return -(-places // native.LANES) * native.LANES
