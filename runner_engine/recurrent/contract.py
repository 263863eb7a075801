"""What a layer with a recurrent state is to the engine: the shapes of its state, and how it reads a
pass's tokens.

A pass is a flat list of tokens of several rows. A row's state in a layer is a few tensors, one slot
of each for a row; that of a fresh row is zeros. A mixer is made of a layer of the model, whose
weights and projections it uses.
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

from runner_engine.recurrent.call_parts import CallParts

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
    """A layer has a form that is not computed here; the message says which."""


@dataclass(frozen=True)
class StateShape:
    """One tensor of a row's state in one layer."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """The memory that it takes for one row."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Segments:
    """Which tokens of a pass belong to which slot: those of a segment are neighbours, and in order.

    No two segments have the same slot, and together they have all tokens.
    """

    slots: list[int]  # of each segment
    firsts: list[int]  # its first token
    counts: list[int]  # how many tokens it has, at least one
    is_step: bool  # each has one token, and segment s has the slot s
    is_decoded: bool = False  # the tokens are those that were picked last, and not of prompts

    @classmethod
    def of(cls, slots: Sequence[int], counts: Sequence[int], is_decoded: bool = False) -> Segments:
        """Return segments that follow each other, each with so many tokens."""
        firsts = [0, *accumulate(counts)][:-1]
        is_step = all(count == 1 for count in counts) and list(slots) == list(range(len(slots)))
        return cls(list(slots), firsts, list(counts), is_step, is_decoded)

    @cached_property
    def longest(self) -> int:
        """The number of tokens of the longest one."""
        return max(self.counts)

    @cached_property
    def are_alike(self) -> bool:
        """Whether all have the same number of tokens, so that nothing is padded."""
        return min(self.counts) == self.longest

    @cached_property
    def _places(self) -> Tensor:
        """The place of each token among the padded ones, [tokens]."""
        pairs = enumerate(self.counts)
        return torch.tensor([at * self.longest + step for at, count in pairs for step in range(count)])

    @cached_property
    def table(self) -> Tensor:
        """What C reads, int32 [4, segments]: slots, first tokens, counts of tokens, and whether
        they were decoded."""
        is_decoded = [self.is_decoded for _ in self.slots]
        return torch.tensor([self.slots, self.firsts, self.counts, is_decoded], dtype=torch.int32)

    def padded(self, tokens: Tensor) -> Tensor:
        """Return numbers of tokens [tokens, …] as [segments, longest, …], with zeros behind the
        shorter segments."""
        shape = (len(self.counts), self.longest, *tokens.shape[1:])
        if self.are_alike:
            return tokens.reshape(shape)
        result = tokens.new_zeros((shape[0] * shape[1], *shape[2:]))
        result[self._places.to(tokens.device)] = tokens
        return result.view(shape)

    def flat(self, padded: Tensor) -> Tensor:
        """Return numbers [segments, longest, …] as those of the tokens [tokens, …]."""
        numbers = padded.reshape(-1, *padded.shape[2:])
        return numbers if self.are_alike else numbers[self._places.to(padded.device)]

    def ends(self, device: torch.device) -> Tensor:
        """Return the number of tokens of each segment, [segments]."""
        return torch.tensor(self.counts, device=device)

    def read(self, state: Tensor) -> Tensor:
        """Return the state of each segment's slot, [segments, …]; in a step this is a view, and not
        a copy."""
        return (
            state[: len(self.slots)] if self.is_step else state[torch.tensor(self.slots, device=state.device)]
        )

    def write(self, state: Tensor, new: Tensor) -> None:
        """Put the state of each segment into its slot."""
        if self.is_step:
            state[: len(self.slots)] = new
        else:
            state[torch.tensor(self.slots, device=state.device)] = new.to(state.dtype)


class Mixer(ABC):
    """A layer that carries a state from token to token; made once of a layer of the model."""

    states: tuple[StateShape, ...]
    in_pair = False  # whether the family's layer returns a pair, whose first one is the result

    @property
    def call_parts(self) -> CallParts | None:
        """What the fused pass needs to compute the layer; None where it has to be computed by
        `forward`."""
        return None

    @abstractmethod
    def forward(self, hidden: Tensor, states: Sequence[Tensor], segments: Segments) -> Tensor:
        """Return the layer's result [tokens, width] for the tokens' [tokens, width].

        states: each [slots, *shape]; before, the state before each segment, and afterwards, the
        state after it. They are changed in place, and slots without a segment stay as they are.
        """


def mixer_of(module: nn.Module) -> Mixer | None:
    """Return the mixer of a layer; None for one of another kind, UnsupportedMixer if its form is
    not computed here."""
    kind = MIXERS.get(type(module).__name__)
    if kind is None:
        return None
    made: Mixer = import_module(f"runner_engine.recurrent.mixers.{kind}").mixer_of(module)
    return made


def mixers_of(model: nn.Module) -> dict[nn.Module, Mixer]:
    """Return the mixers of a model's layers, by the module in whose place each stands, in the
    model's order."""
    made = {module: mixer_of(module) for module in model.modules()}
    return {module: mixer for module, mixer in made.items() if mixer is not None}
