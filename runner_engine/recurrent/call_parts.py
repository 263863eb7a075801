"""What the fused pass needs of a layer with a state: its linear layers, and what C computes between
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from runner_engine.kernels.state_numbers import MIXER_MATRICES, FusedMixer, MixerKind


@dataclass(frozen=True)
class CallParts:
    """A layer's parts, as kernels/mixers.h computes them; `into` gives side by side what
    mixer_structs.h names."""

    kind: MixerKind
    into: tuple[Any, ...]
    out: Any
    structures: Mapping[str, int]  # addresses, by their fields in FusedMixer
    floats: Mapping[str, Tensor] = field(default_factory=dict)  # float32, the same
    rate_scale: float = 1.0
    by_key_heads: bool = False  # what `into` gives is ordered by heads of keys
    kept: tuple[Any, ...] = ()  # what the addresses are of

    @property
    def is_known(self) -> bool:
        """Whether C has places for all of its matrices."""
        return len(self.into) <= MIXER_MATRICES

    def structure(self, number: int) -> FusedMixer:
        """Return what C reads; number: of this layer among those with a state."""
        width, inner = sum(layer.out_features for layer in self.into), self.out.in_features
        floats = {name: numbers.data_ptr() for name, numbers in self.floats.items()}
        numbers = (self.kind, number, width, inner, self.by_key_heads)
        return FusedMixer(*numbers, **self.structures, **floats, rate_scale=self.rate_scale)
