"""Slots for attention in plain torch: side by side in one tensor for each layer, all of one
length."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kv_cache.first_tokens import FirstTokens
from runner_engine.kv_cache.formats import KvFormat
from runner_engine.kv_cache.kv_cache import Heads, OwnKv, rounded

ROOM_TO_GROW = 256  # places beyond the longest own prompt, before slots have to grow


class Slots(OwnKv):
    """A slot for each row in one tensor for each layer [slot, KVH, place, W], all of one capacity.

    For SDPA all heads of a place are side by side in memory, so that `flat` needs no copy.
    """

    def __init__(self, heads: Heads, slots: int = 0, capacity: int = 0) -> None:
        self.heads, self.slots, self.capacity, self.used = heads, slots, self._rounded(capacity), 0
        kinds = [heads.formats(layer) for layer in range(heads.layers)]
        self.keys = [self._empty(of_keys, slots, self.capacity) for of_keys, _ in kinds]
        self.values = [self._empty(of_values, slots, self.capacity) for _, of_values in kinds]
        self.filled = [0] * slots  # places of each that were ever written, and so take memory
        self._table = torch.zeros(slots, 4, dtype=torch.int64)
        self.first = FirstTokens(heads, slots)

    @property
    def table(self) -> torch.Tensor:
        """No addresses: kernels do not read the slots of such a store."""
        return self._table

    @staticmethod
    def cost(needs: Sequence[int]) -> int:
        """Return the places of so many slots, each as long as the longest row."""
        return len(needs) * max(needs, default=0)

    @property
    def held(self) -> int:
        """Places that were ever written, or on a GPU, all of them."""
        return sum(self.filled) if self.heads.device.type == "cpu" else self.slots * self.capacity

    def enter(self, at: int, count: int, needs: Sequence[int], held: Sequence[int], most: int) -> None:
        """Make a slot for each row, and for expected ones, so that not every row that enters causes
        a copy."""
        self.used = len(needs) - count
        need, longest = max(needs), max(held)
        slots, capacity = self.slots, self.capacity
        if len(needs) > slots:
            slots = max(len(needs), min(most, 2 * slots) if slots else most)
        if longest > capacity:
            # on a GPU at once for all that rows may need: with each other tensor its recorded steps
            # would be lost
            capacity = self._rounded(
                need if self.heads.device.type == "cuda" else min(need, longest + ROOM_TO_GROW)
            )
        if (slots, capacity) != (self.slots, self.capacity):
            self._grow(slots, capacity)
        for slot in reversed(range(at, self.used)):
            self._copy(slot, slot + count)
        self.used = len(needs)
        self.first.enter(at, count)

    def leave(self, slot: int, active: int, is_sound: bool = True) -> None:
        """Copy the last row into the slot that becomes free, and overwrite NaN."""
        if not is_sound:
            for tensor in (*self.keys, *self.values, *self.first.tensors):
                tensor[slot] = 0
        for source, target in (
            (active - 1, slot),
            *((behind, behind - 1) for behind in range(active, self.used)),
        ):
            if source != target:
                self._copy(source, target)
        self.used -= 1

    def holds(self, places: Sequence[int]) -> bool:
        """Whether there is room for so many places of each of the first rows."""
        return max(places) <= self.capacity

    def lengthen(self, places: int, need: int) -> None:
        """Grow by half, or as far as the longest row may need."""
        if places > self.capacity:
            self._grow(self.slots, self._rounded(min(need, max(places, int(self.capacity * 1.5)))))

    def fill(self, slot: int, places: int) -> None:
        """Note how many places of a slot hold tokens."""
        self.filled[slot] = max(self.filled[slot], places)

    def keep_spare(self, most: int) -> bool:
        """Do nothing: free slots are in the middle of the tensor."""
        return False

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor
    ) -> None:
        """Store keys and values [T, KVH, D] of a layer in their slots and places."""
        self.first.write(layer, keys, values, slot, place)
        keys, values = self.heads.to_stored(layer, keys, values)
        self.keys[layer][slot.long(), :, place.long()] = keys
        self.values[layer][slot.long(), :, place.long()] = values

    def put_stored(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values [KVH, places, W] into the first places of the first slot."""
        self.keys[layer][0, :, : keys.shape[1]] = keys
        self.values[layer][0, :, : values.shape[1]] = values

    def stored(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, W] of a row."""
        return self.keys[layer][slot, :, :places], self.values[layer][slot, :, :places]

    def numbers(
        self, layer: int, slots: slice | torch.Tensor, places: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [slot, KVH, places, D] of several rows as numbers of the model."""
        heads, stored = (
            self.heads,
            (self.keys[layer][slots, :, :places], self.values[layer][slots, :, :places]),
        )
        if not heads.in_bytes:
            return stored
        keys, values = heads.to_numbers(layer, *(some.flatten(0, 1) for some in stored))
        shape = -1, heads.kv_heads, *keys.shape[1:]
        return self.first.laid_over(layer, slots, keys.view(shape), values.view(shape))

    def read(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, D] of a row."""
        keys, values = super().read(layer, slot, places)
        keys, values = self.first.laid_over(layer, slice(slot, slot + 1), keys[None], values[None])
        return keys[0], values[0]

    def first_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values, in the model's numbers."""
        return [tensor[slot] for tensor in self.first.tensors]

    def set_beginning(self, slot: int, is_beginning: bool) -> None:
        """Note whether a slot's first tokens are those of a text."""
        self.first.set_beginning(slot, is_beginning)

    def tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values."""
        return [tensor[slot] for tensor in (*self.keys, *self.values)]

    def flat(self, layer: int, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of the first slots, place by place: [slot · place, KVH, W]."""
        keys, values = (
            some[layer][:slots].transpose(1, 2).flatten(0, 1) for some in (self.keys, self.values)
        )
        return keys, values

    def _rounded(self, places: int) -> int:
        """Return a capacity for so many places."""
        return rounded(places)

    def _empty(self, of: KvFormat, slots: int, capacity: int) -> torch.Tensor:
        if self.heads.by_sdpa:
            return self.heads.empty(of, slots, capacity, self.heads.kv_heads).transpose(1, 2)
        return self.heads.empty(of, slots, self.heads.kv_heads, capacity)

    def _grow(self, slots: int, capacity: int) -> None:
        """Make room for more slots, or more places in each, a layer at a time."""
        for side, tensors in enumerate((self.keys, self.values)):
            for layer, old in enumerate(tensors):
                new = self._empty(self.heads.formats(layer)[side], slots, capacity)
                self._move(old, new, slots)
                tensors[layer] = new
        self.filled = [self.capacity] * self.used + [0] * (slots - self.used)
        self._table = torch.zeros(slots, 4, dtype=torch.int64)
        self.first.grow(self.used, slots)
        self.slots, self.capacity = slots, capacity

    def _move(self, old: torch.Tensor, new: torch.Tensor, slots: int) -> None:
        """Put what rows have in an old tensor into a new one of so many slots."""
        new[: self.used, :, : self.capacity] = old[: self.used]

    def _copy(self, source: int, target: int) -> None:
        places = self.filled[source]
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :places] = tensor[source, :, :places]
        self.filled[target] = max(self.filled[target], places)
        self.first.copy(source, target)
