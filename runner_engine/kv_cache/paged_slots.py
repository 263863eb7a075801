"""KV store that consists of pages. Attention reads each sequence through a page table.

A sequence's keys and values are ordered by position: position p is in page p // page of
its list, whoever has computed it. The whole pages of a prefix are stored once, and are in
the lists of all sequences that begin with it. The rest of the prefix, less than a page,
is copied to the beginning of each sequence's slot, and the sequence's own positions
follow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain

import torch

from runner_engine.devices.gpu import copy_into_device_tensor
from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache.formats import KvFormat
from runner_engine.kv_cache.kv_store import KvCacheSpec, round_up_positions
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.slots import SlotStore


class PagedSlots(SlotStore):
    """KV store with a slot of whole pages for each sequence, followed by pages of shared prefixes."""

    def __init__(self, kv_spec: KvCacheSpec) -> None:
        self.page = kv_spec.page
        self.spare = 0  # pages behind the slots
        self.shared: dict[
            Prefix, list[int]
        ] = {}  # each prefix's own whole pages, by their numbers behind the slots
        self.continued: list[Prefix | None] = []  # the prefix that each slot continues
        self.before: list[
            int
        ] = []  # places of each slot with a copy of this prefix's end; the row's own ones follow
        self._blocks = torch.zeros(0, 0, dtype=torch.int32, device=kv_spec.device)
        self._starts = torch.zeros(0, dtype=torch.int64, device=kv_spec.device)
        self._is_new = True  # the tables do not show what rows have now
        super().__init__(kv_spec)

    @property
    def resident_tokens(self) -> int:
        """Memory of all sequences in tokens, excluding pages of shared prefixes."""
        of_prefixes = self.page * sum(len(self.shared.get(prefix, ())) for prefix in self._used_prefixes())
        return (
            super().resident_tokens
            if self.heads.device.type == "cpu"
            else len(self.keys[0]) * self.capacity - of_prefixes
        )

    @property
    def page_table(self) -> torch.Tensor:
        """Page indices of each slot, in order of position: int32 [slot, pages].

        The memory address changes only when the table grows.
        """
        self._update_page_tables()
        return self._blocks

    def reserve_prefix_pages(self, prefixes: Collection[Prefix]) -> None:
        """Reserve pages for shared prefixes before the first allocation.

        Growing the store later copies everything.
        """
        if not self.slots:
            self.spare = sum(prefix.count_pages(self.page) for prefix in prefixes)

    def initialize_kv_slots_from_prefix(
        self, first_slot_index: int, num_slots: int, prefix: Prefix | None
    ) -> None:
        rest = prefix.length % self.page if prefix else 0
        (
            self.continued[first_slot_index : first_slot_index + num_slots],
            self.before[first_slot_index : first_slot_index + num_slots],
        ) = ([prefix] * num_slots, [rest] * num_slots)
        self._is_new = True
        if prefix is None:
            return
        self._store_missing_prefix_pages(prefix)
        for layer in range(self.heads.layers):
            place = 0
            for keys, values in _iter_stored_kv(prefix, layer, prefix.length - rest, prefix.length):
                at = slice(place, place + keys.shape[1])
                self.keys[layer][first_slot_index : first_slot_index + num_slots, :, at] = keys
                self.values[layer][first_slot_index : first_slot_index + num_slots, :, at] = values
                place = at.stop
        for slot in range(first_slot_index, first_slot_index + num_slots):
            self.filled[slot] = max(self.filled[slot], rest)

    def insert_slots(
        self,
        first_slot: int,
        count: int,
        max_positions: Sequence[int],
        num_filled: Sequence[int],
        expected_sequences: int,
    ) -> None:
        """Insert slots for new sequences.

        New sequences have no shared prefix until `initialize_kv_slots_from_prefix`.
        """
        super().insert_slots(first_slot, count, max_positions, num_filled, expected_sequences)
        self.continued[first_slot : first_slot + count], self.before[first_slot : first_slot + count] = (
            [None] * count,
            [0] * count,
        )
        self._is_new = True

    def remove_slot(self, slot: int, num_active: int, has_no_nan: bool = True) -> None:
        super().remove_slot(slot, num_active, has_no_nan)
        self.continued[self.used], self.before[self.used] = None, 0
        self._is_new = True

    def has_capacity(self, num_positions: Sequence[int]) -> bool:
        """Whether each slot has room for the given number of positions.

        The partial last page of a shared prefix is copied into the slot and also takes positions.
        """
        return all(
            own + before <= self.capacity for own, before in zip(num_positions, self.before, strict=False)
        )

    def ensure_capacity(self, num_positions: int, max_positions: int) -> None:
        super().ensure_capacity(
            min(num_positions + max(self.before), max(num_positions, max_positions)), max_positions
        )

    def set_num_filled(self, slot: int, num_positions: int) -> None:
        """Record the number of stored positions in a slot, without positions of shared prefixes."""
        super().set_num_filled(slot, self.before[slot] + num_positions)

    def write(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        self._update_page_tables()
        super().write(layer, keys, values, slots, positions + self._starts[slots.long()])

    def read_stored_kv(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.before[slot]
        keys, values = super().read_stored_kv(layer, slot, start + num_positions)
        return keys[:, start:], values[:, start:]

    def get_slot_tensors(self, slot: int) -> list[torch.Tensor]:
        start = self.before[slot]
        end = start + (self.capacity - start) // LANES * LANES
        return [tensor[:, start:end] for tensor in super().get_slot_tensors(slot)]

    def get_flat_kv(self, layer: int, num_slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of all pages. The pages of a sequence need not be adjacent."""
        return super().get_flat_kv(layer, len(self.keys[layer]))

    # else the tables that one pass makes could not be changed outside of passes
    @torch.inference_mode(mode=False)
    def _update_page_tables(self) -> None:
        """Update the page tables on the device after slots or prefixes have changed."""
        if not self._is_new:
            return
        self._is_new, each = False, self.capacity // self.page
        shared = {
            prefix: [
                self.slots * each + page
                for one in prefix.path
                if one in self.shared
                for page in self.shared[one]
            ]
            for prefix in set(self.continued)
            if prefix is not None
        }
        lists = [
            [*(shared[prefix] if prefix else ()), *range(slot * each, (slot + 1) * each)]
            for slot, prefix in enumerate(self.continued)
        ]
        width = max(self._blocks.shape[1], *map(len, lists), 1)
        if self._blocks.shape != (self.slots, width):
            self._blocks = self._blocks.new_zeros(self.slots, width)
            self._starts = self._starts.new_zeros(self.slots)
        for some in lists:
            some += some[-1:] * (width - len(some))  # never read, and yet a page
        for table, numbers in ((self._blocks, lists), (self._starts, self.before)):
            copy_into_device_tensor(torch.tensor(numbers, dtype=table.dtype), table)

    def _store_missing_prefix_pages(self, prefix: Prefix) -> None:
        """Store the missing pages of a shared prefix, and free the pages of unused prefixes."""
        prefixes = self._used_prefixes()
        self.shared = {one: pages for one, pages in self.shared.items() if one in prefixes}
        used = set(chain.from_iterable(self.shared.values()))
        missing = [one for one in prefix.path if one not in self.shared and one.count_pages(self.page)]
        wanted = sum(one.count_pages(self.page) for one in missing)
        if self.spare - len(used) < wanted:
            self.spare = max(2 * self.spare, len(used) + wanted)
            self._grow_slots(self.slots, self.capacity)
        free = (page for page in range(self.spare) if page not in used)
        for one in missing:
            self.shared[one] = [next(free) for _ in range(one.count_pages(self.page))]
            self._write_prefix_pages(one)

    def _write_prefix_pages(self, prefix: Prefix) -> None:
        """Write the complete pages of a shared prefix.

        The first page may begin with the end of the parent prefix.
        """
        places = (
            torch.tensor(self.shared[prefix], device=self.heads.device) * self.page
            + self.slots * self.capacity
        )
        places = (places[:, None] + torch.arange(self.page, device=self.heads.device)).flatten()
        first, last = (some // self.page * self.page for some in (prefix.start, prefix.length))
        for layer in range(self.heads.layers):
            for pool, parts in zip(
                self.get_flat_kv(layer, 0),
                zip(*_iter_stored_kv(prefix, layer, first, last), strict=True),
                strict=True,
            ):
                pool.index_copy_(0, places, torch.cat(parts, dim=1).transpose(0, 1))

    def _used_prefixes(self) -> set[Prefix]:
        """Return all shared prefixes of the sequences in the store, including parent prefixes."""
        return {one for prefix in set(self.continued) if prefix for one in prefix.path}

    def _round_capacity(self, num_positions: int) -> int:
        return round_up_positions(num_positions, self.page)

    def _allocate(self, kv_format: KvFormat, slots: int, capacity: int) -> torch.Tensor:
        return super()._allocate(
            kv_format, slots + (-(-self.spare * self.page // capacity) if capacity else 0), capacity
        )

    def _grow_slots(self, num_slots: int, capacity: int) -> None:
        super()._grow_slots(num_slots, capacity)
        self.continued += [None] * (num_slots - len(self.continued))
        self.before += [0] * (num_slots - len(self.before))
        self._is_new = True

    def _copy_to_larger_tensor(self, old: torch.Tensor, new: torch.Tensor, num_slots: int) -> None:
        super()._copy_to_larger_tensor(old, new, num_slots)
        ours, theirs = (
            some.transpose(1, 2).flatten(0, 1)[count * some.shape[2] :]
            for some, count in ((old, self.slots), (new, num_slots))
        )
        ours = ours[: len(theirs)]
        theirs[: len(ours)] = ours

    def _copy_slot(self, source_slot: int, target_slot: int) -> None:
        super()._copy_slot(source_slot, target_slot)
        self.continued[target_slot], self.before[target_slot] = (
            self.continued[source_slot],
            self.before[source_slot],
        )


def _iter_stored_kv(
    prefix: Prefix, layer: int, first: int, last: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield stored keys and values [KVH, n, W] of a position range in a prefix and its parents.

    The range is first … last-1.
    """
    for one in prefix.path:
        at = slice(max(first - one.start, 0), max(last - one.start, 0))
        keys, values = (some[:, at] for some in one.kv.read_stored_kv(layer))
        if keys.shape[1]:
            yield keys, values
