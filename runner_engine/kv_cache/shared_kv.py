"""Stores for keys and values: the choice between the two kinds, and prefixes that many rows read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kernels import native
from runner_engine.kv_cache.kv_arenas import KvArenas
from runner_engine.kv_cache.kv_cache import Heads, OwnKv, rounded
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.slots import Slots
from runner_engine.recurrent import RowStates


def own_kv(
    heads: Heads,
    kernels: native.Kernels | None,
    needs: Sequence[int] = (),
    prefixes: Sequence[Prefix | None] = (),
) -> OwnKv:
    """Return a store with rows that may fill so many places each, and continue prefixes that are
    complete."""
    store: OwnKv = PagedSlots(heads) if heads.in_pages and kernels is None else _store(heads, kernels)
    if needs:
        store.insert(0, len(needs), needs, needs, len(needs))
    for slot, prefix in enumerate(prefixes):
        store.set_beginning(slot, prefix is None)
    if store.states is not None:
        for slot, prefix in enumerate(prefixes):
            put_state(store, slot, prefix)
    if isinstance(store, PagedSlots):
        for slot, prefix in enumerate(prefixes):
            store.begin(slot, 1, prefix)
    return store


def own_cost(heads: Heads, kernels: native.Kernels | None, needs: Sequence[int]) -> int:
    """Return how many places rows take together in such a store that may fill so many each."""
    of_states = len(needs) * (heads.state_tokens + heads.first_plain_tokens)
    if kernels is not None:
        return KvArenas.cost(needs) + of_states
    return Slots.cost([rounded(need, heads.page) for need in needs] if heads.in_pages else needs) + of_states


def put_state(own: OwnKv, slot: int, prefix: Prefix | None) -> None:
    """Let a row without tokens continue from a prefix's state, if there are states."""
    if own.states is not None and prefix is not None:
        own.states.put(slot, prefix.kv.store.states)


def _store(heads: Heads, kernels: native.Kernels | None) -> OwnKv:
    store: OwnKv = Slots(heads) if kernels is None else KvArenas(heads, kernels)
    store.states = RowStates(heads.states, heads.device) if heads.states else None
    return store


class SharedKv:
    """Keys and values that many rows read: the first places of a store with a single row."""

    def __init__(self, store: OwnKv, length: int) -> None:
        self.store, self.length = store, length

    @classmethod
    def empty(
        cls, heads: Heads, length: int, kernels: native.Kernels | None, is_beginning: bool = True
    ) -> SharedKv:
        """Make room for a prefix, in the layout in which it will be read; is_beginning: of
        texts."""
        store = _store(heads, kernels)
        store.insert(0, 1, [length], [length], 1)
        store.set_beginning(0, is_beginning)
        return cls(store, length)

    def stored(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, L, W] of a layer as they are stored."""
        return self.store.stored(layer, 0, self.length)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, L, D] of a layer."""
        return self.store.read(layer, 0, self.length)

    def beginning(self, length: int) -> SharedKv:
        """Return the first `length` places, in the same store."""
        return SharedKv(self.store, length)
