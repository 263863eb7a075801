"""The first tokens of texts in the model's own numbers, beside slots in fewer bits: where torch
computes attention.

They lie beside what is stored of all tokens, and are laid over it wherever a slot is read that
begins a text. A prefix that is shared has at least so many tokens, so all of them are in one store.
Kernels have them in their arenas (kernels/attention.h).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner_engine.kv_cache.kv_cache import Heads

Slices = slice | torch.Tensor


class FirstTokens:
    """Keys, and values, of first tokens in each slot; nothing where the format has none."""

    def __init__(self, heads: Heads, slots: int) -> None:
        self.heads, self.count = heads, heads.first_plain
        self.tensors = self._empty(slots)  # keys of all layers, then values: [slot, KVH, LANES, D]
        # whether a slot begins a text
        self.begins = torch.ones(slots, dtype=torch.bool, device=heads.device)

    def enter(self, at: int, count: int) -> None:
        """Let the rows of new slots begin texts."""
        if self.count:
            self.begins[at : at + count] = True

    def set_beginning(self, slot: int, is_beginning: bool) -> None:
        """Note whether a slot begins a text."""
        if self.count:
            self.begins[slot] = is_beginning

    def grow(self, used: int, slots: int) -> None:
        """Make room for more slots."""
        if not self.count:
            return
        before, begins = self.tensors, self.begins
        self.tensors, self.begins = self._empty(slots), begins.new_ones(slots)
        self.begins[:used] = begins[:used]
        for old, new in zip(before, self.tensors, strict=True):
            new[:used] = old[:used]

    def copy(self, source: int, target: int) -> None:
        """Copy a slot into another one."""
        if not self.count:
            return
        self.begins[target] = self.begins[source]
        for tensor in self.tensors:
            tensor[target] = tensor[source]

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor
    ) -> None:
        """Keep those of keys and values [T, KVH, D] whose places are among the first."""
        if not self.count:
            return
        early = place < self.count
        at = slot[early].long(), slice(None), place[early].long()
        for tensor, given in zip(self._of_layer(layer), (keys, values), strict=True):
            tensor[at] = given[early]

    def laid_over(
        self, layer: int, slots: Slices, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [slot, KVH, places, D] with the first ones in the model's
        numbers."""
        if not self.count:
            return keys, values
        some = min(self.count, keys.shape[2])
        begins = self.begins[slots][:, None, None, None]
        read = []
        for tensor, given in zip(self._of_layer(layer), (keys, values), strict=True):
            first = tensor[slots][:, :, :some].where(begins, given[:, :, :some])
            read.append(torch.cat((first, given[:, :, some:]), dim=2))
        return read[0], read[1]

    def among(self, slot: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return which of these tokens are stored in the model's numbers: bool [T]."""
        return (place < self.count) & self.begins[slot.long()]

    def _of_layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensors[layer], self.tensors[self.heads.layers + layer]

    def _empty(self, slots: int) -> list[torch.Tensor]:
        heads, shape = self.heads, (slots, self.heads.kv_heads, self.count, self.heads.dim)
        tensors = 2 * heads.layers if self.count else 0
        return [torch.zeros(shape, dtype=heads.dtype, device=heads.device) for _ in range(tensors)]


def copy_tensors(given: Sequence[torch.Tensor], to: Sequence[torch.Tensor]) -> None:
    """Copy some tensors into others of the same shapes."""
    for source, target in zip(given, to, strict=True):
        target.copy_(source)
