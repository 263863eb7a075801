"""The states of rows: one slot of each tensor for a row, beside its keys and values, which move
with it.

A state stands for the tokens that were read into it, and cannot be cut back. So each slot knows how
many these are, and a pass that would continue from another token is an error, and not an answer.
Before guesses are read, states are copied; a row with a wrong guess gets its state back, and reads
what was right of it again with its next tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from runner_engine.kernels.state_numbers import LAYER_STATES
from runner_engine.recurrent.contract import Mixer, Segments, StateShape

Shapes = tuple[tuple[StateShape, ...], ...]  # of the states of each layer that has some
BROKEN = -1  # tokens of a state that a pass has left half changed


def state_bytes(shapes: Shapes) -> int:
    """Return the memory of one row's states."""
    return sum(shape.bytes for of_layer in shapes for shape in of_layer)


@dataclass(frozen=True)
class SavedStates:
    """Copies of states, out of which a wrong guess cannot be taken otherwise."""

    slots: list[int]
    read: list[int]  # as of RowStates
    tensors: list[Tensor]


class RowStates:
    """The states of rows in all layers, by slot. Active rows have the first slots."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        self.shapes, self.device = shapes, device
        self.slots = 0
        self.read: list[
            int
        ] = []  # of each row, the tokens from the start of its text that its state stands for
        self.most_used = 0  # slots that were ever written, and so take memory
        self.layers: list[list[Tensor]] = [
            [self._empty(shape, 0) for shape in of_layer] for of_layer in shapes
        ]
        self.segments: Segments | None = None  # of the pass that reads tokens into them
        self._addresses: Tensor | None = None  # as long as the tensors stay where they are

    def enter(self, at: int, count: int, most: int) -> None:
        """Insert `count` rows without tokens at slot `at`; those that were there move behind. most:
        expected rows."""
        used = len(self.read)
        if used + count > self.slots:
            self._grow(max(used + count, min(most, 2 * self.slots) if self.slots else most))
        for slot in reversed(range(at, used)):
            self._copy(slot, slot + count)
        self.read[at:at] = [0] * count
        self.most_used = max(self.most_used, len(self.read))
        for tensor in self._tensors:
            tensor[at : at + count] = 0

    def leave(self, slot: int, active: int) -> None:
        """Remove a row; the last active row moves into its slot, and those behind the active ones
        move up."""
        for source, target in (
            (active - 1, slot),
            *((behind, behind - 1) for behind in range(active, len(self.read))),
        ):
            if source != target:
                self._copy(source, target)
        self.read[slot] = self.read[active - 1]
        del self.read[active - 1]

    def put(self, slot: int, other: RowStates, of_slot: int = 0) -> None:
        """Set a row's state to that of a row, or prefix, in another store."""
        for tensor, source in zip(self._tensors, other._tensors, strict=True):
            tensor[slot] = source[of_slot]
        self.read[slot] = other.read[of_slot]

    def saved(self, slots: Sequence[int]) -> SavedStates:
        """Return copies of the states of these slots."""
        at = torch.tensor(slots, dtype=torch.int64, device=self.device)
        read = [self.read[slot] for slot in slots]
        return SavedStates(list(slots), read, [tensor[at] for tensor in self._tensors])

    def restore(self, saved: SavedStates, slots: Sequence[int]) -> None:
        """Let some of the slots have their states back."""
        for slot in slots:
            at = saved.slots.index(slot)
            self.read[slot] = saved.read[at]
            for tensor, source in zip(self._tensors, saved.tensors, strict=True):
                tensor[slot] = source[at]

    @contextmanager
    def reading(
        self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], is_decoded: bool = False
    ) -> Iterator[None]:
        """Let a pass be read into the states: `counts` tokens into each of these slots, one by one.

        starts: how many tokens of the row's text come before them; is_decoded: none of them is of a
        prompt.
        """
        for slot, start in zip(slots, starts, strict=True):
            if self.read[slot] != start:
                raise RuntimeError(
                    f"the state in slot {slot} stands for {self.read[slot]} tokens, and not for {start}"
                )
        self.segments = Segments.of(slots, counts, is_decoded)
        for slot in slots:
            self.read[slot] = BROKEN
        try:
            yield
        finally:
            self.segments = None
        for slot, start, count in zip(slots, starts, counts, strict=True):
            self.read[slot] = start + count

    @contextmanager
    def standing_in(self, mixers: Mapping[nn.Module, Mixer]) -> Iterator[None]:
        """Let mixers compute a model's layers in the pass that is being read."""
        if self.segments is None:
            raise RuntimeError("no states are read in this pass")
        before = {module: vars(module).get("forward") for module in mixers}
        try:
            for (module, mixer), states in zip(mixers.items(), self.layers, strict=True):
                module.forward = partial(_mixed, mixer, states, self.segments)
            yield
        finally:
            for module, forward in before.items():
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    module.forward = forward

    def addresses(self) -> Tensor:
        """Return what C reads, int64 [layers, LAYER_STATES]: where each layer's tensors are, 0
        behind the last one."""
        if self._addresses is None:
            missing = [0] * LAYER_STATES
            found = [
                [*(tensor.data_ptr() for tensor in of_layer), *missing][:LAYER_STATES]
                for of_layer in self.layers
            ]
            self._addresses = torch.tensor(found, dtype=torch.int64)
        return self._addresses

    @property
    def _tensors(self) -> list[Tensor]:
        return [tensor for of_layer in self.layers for tensor in of_layer]

    def _empty(self, shape: StateShape, slots: int) -> Tensor:
        return torch.zeros((slots, *shape.shape), dtype=shape.dtype, device=self.device)

    def _grow(self, slots: int) -> None:
        """Make room for more rows, a layer at a time; on a CPU a slot takes no memory before it is
        written."""
        used = len(self.read)
        for of_layer, shapes in zip(self.layers, self.shapes, strict=True):
            for at, (old, shape) in enumerate(zip(of_layer, shapes, strict=True)):
                of_layer[at] = self._empty(shape, slots)
                of_layer[at][:used] = old[:used]
        self._addresses = None
        self.slots = slots

    def _copy(self, source: int, target: int) -> None:
        for tensor in self._tensors:
            tensor[target] = tensor[source]


def _mixed(
    mixer: Mixer, states: Sequence[Tensor], segments: Segments, hidden_states: Tensor, *_: Any, **__: Any
) -> Any:
    """Stand in for the forward of the family's layer: [1, tokens, width] of a flat pass."""
    result = mixer.forward(hidden_states[0], states, segments)[None]
    return (result, None) if mixer.in_pair else result
