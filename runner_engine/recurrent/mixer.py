"""Interface of recurrent layers: the shapes of their states, and their computation in a forward pass.

A pass is a flat list of tokens of several sequences. A sequence's state in a layer is a
few tensors with one slot per sequence. A new sequence's state is zero. A mixer is created
from a layer of the model, and uses its weights and projections.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import accumulate

import torch
from torch import Tensor, nn

from runner_engine.recurrent.mixer_parts import MixerParts

MIXERS = {  # the class of a layer: the module of mixers/ that computes it
    "Lfm2ShortConv": "short_conv",
    "Lfm2MoeShortConv": "short_conv",
    "Lfm3ShortConv": "short_conv",
    "Mamba2Mixer": "mamba2",
    "BambaMixer": "mamba2",
    "GraniteMoeHybridMambaLayer": "mamba2",
    "NemotronHMamba2Mixer": "mamba2",
    "FalconH1Mixer": "mamba2",
    "Zamba2MambaMixer": "mamba2",
    "MambaMixer": "mamba",
    "FalconMambaMixer": "mamba",
    "JambaMambaMixer": "mamba",
    "ZambaMambaMixer": "mamba",
    "RecurrentGemmaRecurrentBlock": "rg_lru",
    "MiniMaxLightningAttention": "lightning",
    "Qwen3_5GatedDeltaNet": "gated_delta",
    "Qwen3_5MoeGatedDeltaNet": "gated_delta",
    "Qwen3NextGatedDeltaNet": "gated_delta",
    "OlmoHybridGatedDeltaNet": "gated_delta",
    "KimiLinearDeltaAttention": "gated_delta",
    "BailingHybridDeltaAttention": "gated_delta",
}


class UnsupportedMixer(Exception):
    """Raised for an unsupported variant of a recurrent layer."""


@dataclass(frozen=True)
class StateShape:
    """Shape and dtype of one sequence's recurrent state tensor in one layer."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the state tensor of one sequence."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Segments:
    """Token segments of a forward pass, one for each KV slot. A segment's tokens are adjacent and in order.

    No two segments have the same slot, and together they cover all tokens.
    """

    slots: list[int]  # of each segment
    firsts: list[int]  # its first token
    counts: list[int]  # how many tokens it has, at least one
    is_step: bool  # each has one token, and segment s has the slot s
    is_decoded: bool = False  # the tokens are those that were picked last, and not of prompts

    @classmethod
    def from_token_counts(
        cls, slots: Sequence[int], token_counts: Sequence[int], is_decoding: bool = False
    ) -> Segments:
        """Create adjacent token segments with these token counts, one for each slot."""
        firsts = [0, *accumulate(token_counts)][:-1]
        is_step = all(count == 1 for count in token_counts) and list(slots) == list(range(len(slots)))
        return cls(list(slots), firsts, list(token_counts), is_step, is_decoding)

    @cached_property
    def max_count(self) -> int:
        """Number of tokens in the longest segment."""
        return max(self.counts)

    @cached_property
    def has_equal_counts(self) -> bool:
        """Whether all segments have the same number of tokens, so that padding is unnecessary."""
        return min(self.counts) == self.max_count

    @cached_property
    def _padded_token_indices(self) -> Tensor:
        """Index of each token in the padded layout: [tokens]."""
        pairs = enumerate(self.counts)
        return torch.tensor([at * self.max_count + step for at, count in pairs for step in range(count)])

    @cached_property
    def table(self) -> Tensor:
        """Table of the segments for the C kernels: int32 [4, segments].

        Contains slots, first tokens, token counts, and whether tokens were decoded.
        """
        is_decoded = [self.is_decoded for _ in self.slots]
        return torch.tensor([self.slots, self.firsts, self.counts, is_decoded], dtype=torch.int32)

    def pad_to_longest_segment(self, values: Tensor) -> Tensor:
        """Pad token values [tokens, …] with zeros to [segments, longest segment, …]."""
        shape = (len(self.counts), self.max_count, *values.shape[1:])
        if self.has_equal_counts:
            return values.reshape(shape)
        result = values.new_zeros((shape[0] * shape[1], *shape[2:]))
        result[self._padded_token_indices.to(values.device)] = values
        return result.view(shape)

    def remove_segment_padding(self, padded: Tensor) -> Tensor:
        """Convert padded values [segments, longest, …] to token values [tokens, …]."""
        numbers = padded.reshape(-1, *padded.shape[2:])
        return numbers if self.has_equal_counts else numbers[self._padded_token_indices.to(padded.device)]

    def token_counts(self, device: torch.device) -> Tensor:
        """Return the number of tokens of each segment as a tensor [segments]."""
        return torch.tensor(self.counts, device=device)

    def read_states(self, state: Tensor) -> Tensor:
        """Return the recurrent states of all segments: [segments, …].

        In a decoding step the result is a view, not a copy.
        """
        return (
            state[: len(self.slots)] if self.is_step else state[torch.tensor(self.slots, device=state.device)]
        )

    def write_states(self, state: Tensor, new_states: Tensor) -> None:
        """Write the new state of each segment to its slot."""
        if self.is_step:
            state[: len(self.slots)] = new_states
        else:
            state[torch.tensor(self.slots, device=state.device)] = new_states.to(state.dtype)


class Mixer(ABC):
    """A recurrent layer for continuous batching, created from one of the model's modules."""

    states: tuple[StateShape, ...]
    in_pair = False  # whether the family's layer returns a pair, whose first one is the result

    @property
    def mixer_parts(self) -> MixerParts | None:
        """Linear layers and C structures for the fused forward pass, or None if the layer is unsupported."""
        return None

    @abstractmethod
    def forward(self, hidden_states: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Return the layer's output [tokens, width] for hidden states [tokens, width].

        states: tensors [slots, *shape] with the state before each segment. They are updated in
        place to the state after it. Slots without a segment do not change.
        """


def create_mixer(module: nn.Module) -> Mixer | None:
    """Create the mixer of a recurrent layer, or return None for other layers.

    Raises UnsupportedMixer if our mixers do not compute the layer's form.
    """
    kind = MIXERS.get(type(module).__name__)
    if kind is None:
        return None
    made: Mixer = import_module(f"runner_engine.recurrent.mixers.{kind}").create_mixer(module)
    return made


def create_recurrent_layer_mixers(model: nn.Module) -> dict[nn.Module, Mixer]:
    """Create the mixers of a model's recurrent layers, in model order.

    The keys are the modules that the mixers replace.
    """
    made = {module: create_mixer(module) for module in model.modules()}
    return {module: mixer for module, mixer in made.items() if mixer is not None}
