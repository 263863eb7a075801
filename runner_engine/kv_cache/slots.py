"""KV store for attention in torch: one tensor per layer, with slots of equal capacity."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kv_cache.first_tokens import FirstTokens
from runner_engine.kv_cache.formats import KvFormat
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore, round_up_positions

ROOM_TO_GROW = 256  # places beyond the longest own prompt, before slots have to grow


class SlotStore(KvStore):
    """KV store with one tensor [slot, KVH, position, W] per layer. All slots have equal capacity.

    For SDPA all heads of a position are adjacent in memory, so that `get_flat_kv` needs no copy.
    """

    def __init__(self, kv_spec: KvCacheSpec, slots: int = 0, capacity: int = 0) -> None:
        self.heads, self.slots, self.capacity, self.used = kv_spec, slots, self._round_capacity(capacity), 0
        kinds = [kv_spec.get_layer_kv_formats(layer) for layer in range(kv_spec.layers)]
        self.keys = [self._allocate(of_keys, slots, self.capacity) for of_keys, _ in kinds]
        self.values = [self._allocate(of_values, slots, self.capacity) for _, of_values in kinds]
        self.filled = [0] * slots  # places of each that were ever written, and so take memory
        self._table = torch.zeros(slots, 4, dtype=torch.int64)
        self.first = FirstTokens(kv_spec, slots)

    @property
    def address_table(self) -> torch.Tensor:
        """Dummy table of zeros, because the C kernels never read this KV store."""
        return self._table

    @staticmethod
    def count_required_positions(max_positions: Sequence[int]) -> int:
        """Return the number of slots times the longest length, because all slots have equal capacity."""
        return len(max_positions) * max(max_positions, default=0)

    @property
    def resident_tokens(self) -> int:
        """Number of positions that take memory.

        A GPU holds all positions, a CPU only those that have been written.
        """
        return sum(self.filled) if self.heads.device.type == "cpu" else self.slots * self.capacity

    def insert_slots(
        self,
        first_slot: int,
        count: int,
        max_positions: Sequence[int],
        num_filled: Sequence[int],
        expected_sequences: int,
    ) -> None:
        """Insert slots, and reserve memory for the expected number of sequences.

        The reserve avoids a copy for each new sequence.
        """
        self.used = len(max_positions) - count
        need, longest = max(max_positions), max(num_filled)
        slots, capacity = self.slots, self.capacity
        if len(max_positions) > slots:
            slots = max(
                len(max_positions), min(expected_sequences, 2 * slots) if slots else expected_sequences
            )
        if longest > capacity:
            # on a GPU at once for all that rows may need: with each other tensor its recorded steps
            # would be lost
            capacity = self._round_capacity(
                need if self.heads.device.type == "cuda" else min(need, longest + ROOM_TO_GROW)
            )
        if (slots, capacity) != (self.slots, self.capacity):
            self._grow_slots(slots, capacity)
        for slot in reversed(range(first_slot, self.used)):
            self._copy_slot(slot, slot + count)
        self.used = len(max_positions)
        self.first.reset_slots(first_slot, count)

    def remove_slot(self, slot: int, num_active: int, has_no_nan: bool = True) -> None:
        """Remove a slot and move the last active sequence to it. Clears a slot that contains NaN."""
        if not has_no_nan:
            for tensor in (*self.keys, *self.values, *self.first.tensors):
                tensor[slot] = 0
        for source, target in (
            (num_active - 1, slot),
            *((behind, behind - 1) for behind in range(num_active, self.used)),
        ):
            if source != target:
                self._copy_slot(source, target)
        self.used -= 1

    def has_capacity(self, num_positions: Sequence[int]) -> bool:
        return max(num_positions) <= self.capacity

    def ensure_capacity(self, num_positions: int, max_positions: int) -> None:
        """If needed, grow the slots by half, but not beyond the maximum length of the longest sequence."""
        if num_positions > self.capacity:
            self._grow_slots(
                self.slots,
                self._round_capacity(min(max_positions, max(num_positions, int(self.capacity * 1.5)))),
            )

    def set_num_filled(self, slot: int, num_positions: int) -> None:
        self.filled[slot] = max(self.filled[slot], num_positions)

    def free_unused(self, max_tokens: int) -> bool:
        """Do nothing, because all slots of a layer share one tensor."""
        return False

    def write(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        self.first.write(layer, keys, values, slots, positions)
        keys, values = self.heads.encode_kv(layer, keys, values)
        self.keys[layer][slots.long(), :, positions.long()] = keys
        self.values[layer][slots.long(), :, positions.long()] = values

    def write_stored(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys[layer][0, :, : keys.shape[1]] = keys
        self.values[layer][0, :, : values.shape[1]] = values

    def read_stored_kv(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.keys[layer][slot, :, :num_positions], self.values[layer][slot, :, :num_positions]

    def read_kv_slots(
        self, layer: int, slots: slice | torch.Tensor, num_positions: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the decoded keys and values [slot, KVH, positions, D] of several slots."""
        heads, stored = (
            self.heads,
            (self.keys[layer][slots, :, :num_positions], self.values[layer][slots, :, :num_positions]),
        )
        if not heads.is_quantized:
            return stored
        keys, values = heads.decode_kv(layer, *(some.flatten(0, 1) for some in stored))
        shape = -1, heads.kv_heads, *keys.shape[1:]
        return self.first.restore_unquantized_first_tokens(layer, slots, keys.view(shape), values.view(shape))

    def read(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().read(layer, slot, num_positions)
        keys, values = self.first.restore_unquantized_first_tokens(
            layer, slice(slot, slot + 1), keys[None], values[None]
        )
        return keys[0], values[0]

    def get_first_token_tensors(self, slot: int) -> list[torch.Tensor]:
        return [tensor[slot] for tensor in self.first.tensors]

    def set_text_start(self, slot: int, is_text_start: bool) -> None:
        self.first.set_text_start(slot, is_text_start)

    def get_slot_tensors(self, slot: int) -> list[torch.Tensor]:
        return [tensor[slot] for tensor in (*self.keys, *self.values)]

    def get_flat_kv(self, layer: int, num_slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's keys and values in the first slots as [slot · position, KVH, W]."""
        keys, values = (
            some[layer][:num_slots].transpose(1, 2).flatten(0, 1) for some in (self.keys, self.values)
        )
        return keys, values

    def _round_capacity(self, num_positions: int) -> int:
        return round_up_positions(num_positions)

    def _allocate(self, kv_format: KvFormat, slots: int, capacity: int) -> torch.Tensor:
        if self.heads.by_sdpa:
            return self.heads.allocate_zero_kv_vectors(
                kv_format, slots, capacity, self.heads.kv_heads
            ).transpose(1, 2)
        return self.heads.allocate_zero_kv_vectors(kv_format, slots, self.heads.kv_heads, capacity)

    def _grow_slots(self, num_slots: int, capacity: int) -> None:
        """Increase the number of slots or their capacity, one layer at a time."""
        for side, tensors in enumerate((self.keys, self.values)):
            for layer, old in enumerate(tensors):
                new = self._allocate(self.heads.get_layer_kv_formats(layer)[side], num_slots, capacity)
                self._copy_to_larger_tensor(old, new, num_slots)
                tensors[layer] = new
        self.filled = [self.capacity] * self.used + [0] * (num_slots - self.used)
        self._table = torch.zeros(num_slots, 4, dtype=torch.int64)
        self.first.resize(self.used, num_slots)
        self.slots, self.capacity = num_slots, capacity

    def _copy_to_larger_tensor(self, old: torch.Tensor, new: torch.Tensor, num_slots: int) -> None:
        new[: self.used, :, : self.capacity] = old[: self.used]

    def _copy_slot(self, source_slot: int, target_slot: int) -> None:
        places = self.filled[source_slot]
        for tensor in (*self.keys, *self.values):
            tensor[target_slot, :, :places] = tensor[source_slot, :, :places]
        self.filled[target_slot] = max(self.filled[target_slot], places)
        self.first.copy_first_tokens_between_slots(source_slot, target_slot)
