"""Recurrent states of sequences: one slot per sequence in each state tensor.

States move together with the sequence's KV slot.

A state covers the tokens that were read into it, and cannot be truncated. So each slot
stores their number, and a pass that would continue from another token raises an error.
Before draft tokens are verified, states are copied. After a rejected draft, the copy is
restored, and the accepted tokens are read again with the next tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from runner_engine.kernels.state_structures import LAYER_STATES
from runner_engine.recurrent.mixer import Mixer, Segments, StateShape

Shapes = tuple[tuple[StateShape, ...], ...]  # of the states of each layer that has some
BROKEN = -1  # tokens of a state that a pass has left half changed


def recurrent_state_nbytes(shapes: Shapes) -> int:
    return sum(shape.nbytes for of_layer in shapes for shape in of_layer)


@dataclass(frozen=True)
class SavedStates:
    """Copies of recurrent states.

    They are needed because rejected draft tokens cannot be removed from a state.
    """

    slots: list[int]
    read: list[int]  # as of RowStates
    tensors: list[Tensor]


class SequenceStates:
    """Recurrent states of all sequences in all layers, by slot. Active sequences occupy the first slots."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        self.shapes, self.device = shapes, device
        self.slots = 0
        self.read: list[
            int
        ] = []  # of each row, the tokens from the start of its text that its state stands for
        self.most_used = 0  # slots that were ever written, and so take memory
        self.layers: list[list[Tensor]] = [
            [self._allocate(shape, 0) for shape in of_layer] for of_layer in shapes
        ]
        self.segments: Segments | None = None  # of the pass that reads tokens into them
        self._addresses: Tensor | None = None  # as long as the tensors stay where they are

    def insert_slots(self, first_slot: int, num_slots: int, expected_num_sequences: int) -> None:
        """Insert `num_slots` empty slots at index first_slot. Later slots move back."""
        used = len(self.read)
        if used + num_slots > self.slots:
            self._grow_slots(
                max(
                    used + num_slots,
                    min(expected_num_sequences, 2 * self.slots) if self.slots else expected_num_sequences,
                )
            )
        for slot in reversed(range(first_slot, used)):
            self._copy_slot(slot, slot + num_slots)
        self.read[first_slot:first_slot] = [0] * num_slots
        self.most_used = max(self.most_used, len(self.read))
        for tensor in self._all_state_tensors:
            tensor[first_slot : first_slot + num_slots] = 0

    def remove_slot(self, slot: int, num_active: int) -> None:
        """Remove a slot. The last active sequence moves to this slot.

        The indices of later slots decrease by one.
        """
        for source, target in (
            (num_active - 1, slot),
            *((behind, behind - 1) for behind in range(num_active, len(self.read))),
        ):
            if source != target:
                self._copy_slot(source, target)
        self.read[slot] = self.read[num_active - 1]
        del self.read[num_active - 1]

    def copy_states_from(self, slot: int, source_states: SequenceStates, source_slot: int = 0) -> None:
        for tensor, source in zip(self._all_state_tensors, source_states._all_state_tensors, strict=True):
            tensor[slot] = source[source_slot]
        self.read[slot] = source_states.read[source_slot]

    def save_states(self, slots: Sequence[int]) -> SavedStates:
        at = torch.tensor(slots, dtype=torch.int64, device=self.device)
        read = [self.read[slot] for slot in slots]
        return SavedStates(list(slots), read, [tensor[at] for tensor in self._all_state_tensors])

    def restore_states(self, saved: SavedStates, slots: Sequence[int]) -> None:
        for slot in slots:
            at = saved.slots.index(slot)
            self.read[slot] = saved.read[at]
            for tensor, source in zip(self._all_state_tensors, saved.tensors, strict=True):
                tensor[slot] = source[at]

    @contextmanager
    def track_states_in_forward_pass(
        self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], is_decoding: bool = False
    ) -> Iterator[None]:
        """Context manager for a forward pass over counts[i] tokens of the sequence in slots[i].

        Checks that each state is up to date.

        starts: how many tokens of the sequence come before them. is_decoding: none of them belongs
        to a prompt.
        """
        for slot, start in zip(slots, starts, strict=True):
            if self.read[slot] != start:
                raise RuntimeError(
                    f"the state in slot {slot} is at token {self.read[slot]}, but the pass starts at token {start}"
                )
        self.segments = Segments.from_token_counts(slots, counts, is_decoding)
        for slot in slots:
            self.read[slot] = BROKEN
        try:
            yield
        finally:
            self.segments = None
        for slot, start, count in zip(slots, starts, counts, strict=True):
            self.read[slot] = start + count

    @contextmanager
    def replace_recurrent_layers(self, mixers: Mapping[nn.Module, Mixer]) -> Iterator[None]:
        """Context manager that replaces a model's recurrent layers by mixers."""
        if self.segments is None:
            raise RuntimeError("recurrent states need the context track_states_in_forward_pass")
        before = {module: vars(module).get("forward") for module in mixers}
        try:
            for (module, mixer), states in zip(mixers.items(), self.layers, strict=True):
                module.forward = partial(_forward_with_mixer, mixer, states, self.segments)
            yield
        finally:
            for module, forward in before.items():
                if forward is None:
                    vars(module).pop("forward", None)
                else:
                    module.forward = forward

    def get_tensor_addresses(self) -> Tensor:
        """Return the memory addresses of each layer's state tensors, for the C kernels.

        int64 [layers, LAYER_STATES], padded with 0.
        """
        if self._addresses is None:
            missing = [0] * LAYER_STATES
            found = [
                [*(tensor.data_ptr() for tensor in of_layer), *missing][:LAYER_STATES]
                for of_layer in self.layers
            ]
            self._addresses = torch.tensor(found, dtype=torch.int64)
        return self._addresses

    @property
    def _all_state_tensors(self) -> list[Tensor]:
        return [tensor for of_layer in self.layers for tensor in of_layer]

    def _allocate(self, shape: StateShape, slots: int) -> Tensor:
        return torch.zeros((slots, *shape.shape), dtype=shape.dtype, device=self.device)

    def _grow_slots(self, num_slots: int) -> None:
        """Allocate more slots, one layer at a time.

        On a CPU, slots that were never written take no memory.
        """
        used = len(self.read)
        for of_layer, shapes in zip(self.layers, self.shapes, strict=True):
            for at, (old, shape) in enumerate(zip(of_layer, shapes, strict=True)):
                of_layer[at] = self._allocate(shape, num_slots)
                of_layer[at][:used] = old[:used]
        self._addresses = None
        self.slots = num_slots

    def _copy_slot(self, source_slot: int, target_slot: int) -> None:
        for tensor in self._all_state_tensors:
            tensor[target_slot] = tensor[source_slot]


def _forward_with_mixer(
    mixer: Mixer, states: Sequence[Tensor], segments: Segments, hidden_states: Tensor, *_: Any, **__: Any
) -> Any:
    result = mixer.forward(hidden_states[0], states, segments)[None]
    return (result, None) if mixer.in_pair else result
