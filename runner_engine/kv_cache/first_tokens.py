"""Stores the keys and values of each prompt's first tokens unquantized, next to a quantized KV cache.

Used for attention in torch.

They are stored in addition to the quantized values and replace them when a slot that
begins a text is read. A shared prefix has at least as many tokens, so all first tokens
are in one store. Kernels keep them in their arenas (kernels/attention.h).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kv_cache.kv_store import KvCacheSpec

SlotIndices = slice | torch.Tensor


class FirstTokens:
    """Unquantized keys and values of the first tokens in each slot.

    Empty if the KV format does not need them.
    """

    def __init__(self, kv_spec: KvCacheSpec, slots: int) -> None:
        self.heads, self.count = kv_spec, kv_spec.num_unquantized_first
        self.tensors = self._allocate(slots)  # keys of all layers, then values: [slot, KVH, LANES, D]
        # whether a slot begins a text
        self.begins = torch.ones(slots, dtype=torch.bool, device=kv_spec.device)

    def reset_slots(self, first_slot: int, count: int) -> None:
        """Mark that new slots start at the beginning of a prompt."""
        if self.count:
            self.begins[first_slot : first_slot + count] = True

    def set_text_start(self, slot: int, is_text_start: bool) -> None:
        """Set whether a slot starts at the beginning of a prompt."""
        if self.count:
            self.begins[slot] = is_text_start

    def resize(self, num_used_slots: int, num_slots: int) -> None:
        if not self.count:
            return
        before, begins = self.tensors, self.begins
        self.tensors, self.begins = self._allocate(num_slots), begins.new_ones(num_slots)
        self.begins[:num_used_slots] = begins[:num_used_slots]
        for old, new in zip(before, self.tensors, strict=True):
            new[:num_used_slots] = old[:num_used_slots]

    def copy_first_tokens_between_slots(self, source: int, target: int) -> None:
        if not self.count:
            return
        self.begins[target] = self.begins[source]
        for tensor in self.tensors:
            tensor[target] = tensor[source]

    def write(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """Store the unquantized keys and values [T, KVH, D] of a prompt's first tokens."""
        if not self.count:
            return
        early = positions < self.count
        at = slots[early].long(), slice(None), positions[early].long()
        for tensor, given in zip(self._layer_tensors(layer), (keys, values), strict=True):
            tensor[at] = given[early]

    def restore_unquantized_first_tokens(
        self, layer: int, slots: SlotIndices, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Replace the quantized keys and values of a prompt's first tokens by the unquantized ones.

        Keys and values have shape [slot, KVH, positions, D].
        """
        if not self.count:
            return keys, values
        some = min(self.count, keys.shape[2])
        begins = self.begins[slots][:, None, None, None]
        read = []
        for tensor, given in zip(self._layer_tensors(layer), (keys, values), strict=True):
            first = tensor[slots][:, :, :some].where(begins, given[:, :, :some])
            read.append(torch.cat((first, given[:, :, some:]), dim=2))
        return read[0], read[1]

    def unquantized_mask(self, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return a mask of the tokens that are also stored unquantized: bool [T]."""
        return (positions < self.count) & self.begins[slots.long()]

    def _layer_tensors(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensors[layer], self.tensors[self.heads.layers + layer]

    def _allocate(self, slots: int) -> list[torch.Tensor]:
        heads, shape = self.heads, (slots, self.heads.kv_heads, self.count, self.heads.dim)
        tensors = 2 * heads.layers if self.count else 0
        return [torch.zeros(shape, dtype=heads.dtype, device=heads.device) for _ in range(tensors)]


def copy_tensors(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    """Copy each source tensor to the target tensor with the same shape."""
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
