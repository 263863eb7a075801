"""Stores for keys and values: the choice between the two kinds, and prefixes that many rows read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner.engines.local.kernels import native
from runner.engines.local.kv_cache.kv_arenas import KvArenas
from runner.engines.local.kv_cache.kv_cache import Heads, OwnKv
from runner.engines.local.kv_cache.slots import Slots


def own_kv(heads: Heads, kernels: native.Kernels | None, needs: Sequence[int] = ()) -> OwnKv:
    """Return a store with rows that may fill so many places each."""
    store: OwnKv = Slots(heads) if kernels is None else KvArenas(heads, kernels)
    if needs:
        store.enter(0, len(needs), needs, needs, len(needs))
    return store


class SharedKv:
    """Keys and values that many rows read: the first places of a store with a single row."""

    def __init__(self, store: OwnKv, length: int) -> None:
        self.store, self.length = store, length

    @classmethod
    def empty(cls, heads: Heads, length: int, kernels: native.Kernels | None) -> SharedKv:
        """Make room for a prefix, in the layout in which it will be read."""
        return cls(own_kv(heads, kernels, [length]), length)

    def stored(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, L, W] of a layer as they are stored."""
        return self.store.stored(layer, 0, self.length)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, L, D] of a layer."""
        return self.store.read(layer, 0, self.length)

    def beginning(self, length: int) -> SharedKv:
        """Return the first `length` places, in the same store."""
        return SharedKv(self.store, length)
