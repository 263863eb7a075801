"""Parts of a recurrent layer that the fused forward pass needs: linear layers and a C structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from runner_engine.kernels.state_structures import MIXER_MATRICES, ChannelsLayer, FusedMixer, MixerKind


@dataclass(frozen=True)
class ChannelProducts:
    """Modules between the convolution and the recurrence of a Mamba layer, and its recurrence.

    Each norm is a module or None: of the low-rank time steps, the keys and the queries.
    """

    to_parts: Any
    to_steps: Any
    norms: tuple[Any, Any, Any]
    rank: int
    scan: ChannelsLayer


@dataclass(frozen=True)
class MixerParts:
    """Linear layers and settings of a recurrent layer that the C kernels read (kernels/mixers.h).

    `into` are the input projections. Their outputs have the order of mixer_structs.h.
    """

    kind: MixerKind
    into: tuple[Any, ...]
    out: Any
    structures: Mapping[str, int]  # addresses, by their fields in FusedMixer
    floats: Mapping[str, Tensor] = field(default_factory=dict)  # float32, the same
    rate_scale: float = 1.0
    by_key_heads: bool = False  # what `into` gives is ordered by heads of keys
    kept: tuple[Any, ...] = ()  # what the addresses are of
    products: ChannelProducts | None = None  # only of channels_mixer

    @property
    def is_supported(self) -> bool:
        return len(self.into) <= MIXER_MATRICES

    def build_recurrent_layer_struct(self, layer_index: int) -> FusedMixer:
        """Build the C structure of the layer.

        layer_index: index among the recurrent layers.
        """
        width, inner = sum(layer.out_features for layer in self.into), self.out.in_features
        floats = {name: numbers.data_ptr() for name, numbers in self.floats.items()}
        numbers = (self.kind, layer_index, width, inner, self.by_key_heads)
        return FusedMixer(*numbers, **self.structures, **floats, rate_scale=self.rate_scale)
