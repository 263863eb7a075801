"""Keys and values of shared prefixes, and functions that create KV stores."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kernels import native
from runner_engine.kv_cache.kv_arenas import KvArenaStore
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore, round_up_positions
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.recurrent import SequenceStates


def create_kv_store(
    kv_spec: KvCacheSpec,
    kernels: native.Kernels | None,
    max_positions: Sequence[int] = (),
    prefixes: Sequence[Prefix | None] = (),
) -> KvStore:
    """Create a KV store for sequences with these maximum lengths.

    prefixes: the completely computed shared prefix of each sequence.
    """
    store: KvStore = (
        PagedSlots(kv_spec)
        if kv_spec.uses_pages and kernels is None
        else _create_empty_kv_store(kv_spec, kernels)
    )
    if max_positions:
        store.insert_slots_with_empty_states(
            0, len(max_positions), max_positions, max_positions, len(max_positions)
        )
    for slot, prefix in enumerate(prefixes):
        store.set_text_start(slot, prefix is None)
    if store.states is not None:
        for slot, prefix in enumerate(prefixes):
            copy_prefix_recurrent_state(store, slot, prefix)
    if isinstance(store, PagedSlots):
        for slot, prefix in enumerate(prefixes):
            store.initialize_kv_slots_from_prefix(slot, 1, prefix)
    return store


def compute_kv_store_size_tokens(
    kv_spec: KvCacheSpec, kernels: native.Kernels | None, max_positions: Sequence[int]
) -> int:
    """Return the memory, in tokens, of a KV store for sequences with these maximum lengths."""
    of_states = len(max_positions) * (kv_spec.state_tokens + kv_spec.first_tokens_cost)
    if kernels is not None:
        return KvArenaStore.count_required_positions(max_positions) + of_states
    return (
        SlotStore.count_required_positions(
            [round_up_positions(need, kv_spec.page) for need in max_positions]
            if kv_spec.uses_pages
            else max_positions
        )
        + of_states
    )


def copy_prefix_recurrent_state(kv_store: KvStore, slot: int, prefix: Prefix | None) -> None:
    """Copy a prefix's recurrent state, if there is one, into the slot of a new sequence."""
    if kv_store.states is not None and prefix is not None:
        kv_store.states.copy_states_from(slot, prefix.kv.store.states)


def _create_empty_kv_store(kv_spec: KvCacheSpec, kernels: native.Kernels | None) -> KvStore:
    store: KvStore = SlotStore(kv_spec) if kernels is None else KvArenaStore(kv_spec, kernels)
    store.states = SequenceStates(kv_spec.states, kv_spec.device) if kv_spec.states else None
    return store


class SharedKv:
    """Keys and values that many sequences read, stored in a KV store with a single slot."""

    def __init__(self, store: KvStore, length: int) -> None:
        self.store, self.length = store, length

    @classmethod
    def allocate(
        cls, kv_spec: KvCacheSpec, length: int, kernels: native.Kernels | None, is_text_start: bool = True
    ) -> SharedKv:
        """Allocate a KV store for a shared prefix.

        is_text_start: the prefix is the beginning of a text.
        """
        store = _create_empty_kv_store(kv_spec, kernels)
        store.insert_slots_with_empty_states(0, 1, [length], [length], 1)
        store.set_text_start(0, is_text_start)
        return cls(store, length)

    def read_stored_kv(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.store.read_stored_kv(layer, 0, self.length)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.store.read(layer, 0, self.length)

    def view_first(self, length: int) -> SharedKv:
        """Return a view of the first `length` positions, in the same KV store."""
        return SharedKv(self.store, length)
