"""C structures of recurrent layers for the fused forward pass, with pointers to the recurrent states."""

from __future__ import annotations

import ctypes
from typing import Any

from runner_engine.decode.layouts import ModelLayout
from runner_engine.kernels.c_interface import BESIDE_PHASES, CACHE_LINE, ChannelsMixer, FusedTokens
from runner_engine.kernels.state_structures import (
    MIXER_PHASES,
    ROUND_TOKENS,
    STATE_LANES,
    ConvLayer,
    DeltaLayer,
    FusedMixer,
    HeadsLayer,
    MixerKind,
)
from runner_engine.recurrent import SequenceStates

FLOAT_BYTES = 4


class FusedMixers:
    """The recurrent layers of a model, stored in C structures for the fused forward pass."""

    def __init__(self, layout: ModelLayout) -> None:
        found = [layer.mixer if layer.beside is None else layer.beside.mixer for layer in layout.layers]
        self._parts = {number: parts for number, parts in enumerate(found) if parts is not None}
        self._attends = [layer.attention is not None for layer in layout.layers]
        self.has_beside = any(layer.beside for layer in layout.layers)
        self.count = len(self._parts)
        made = [parts.build_recurrent_layer_struct(at) for at, parts in enumerate(self._parts.values())]
        self._structures = dict(zip(self._parts, made, strict=True))
        # numbers of a token before and behind the widest
        self.before = max((one.width for one in made), default=0)
        self.behind = max((one.inner for one in made), default=0)
        self._kept: list[Any] = []  # what a pass has the addresses of
        self._kept_channels: list[ChannelsMixer] = []  # what the layers' structures have the addresses of

    def attach_channels_mixer_to_layer(self, layer: int, channels: ChannelsMixer) -> None:
        """Give a Mamba layer's C structure what stands between convolution and recurrence."""
        self._kept_channels.append(channels)
        self._structures[layer].channels = ctypes.addressof(channels)

    def struct_address(self, layer: int) -> int:
        """Return the memory address of a recurrent layer's C structure."""
        return ctypes.addressof(self._structures[layer])

    def count_attention_before(self, layer: int) -> int:
        return sum(self._attends[:layer])

    def count_phases(self, num_tokens: int) -> int:
        """Return how many thread synchronizations recurrent layers add to a forward pass.

        The result must equal phases_of in fused_forward.h.
        """
        return self.count * (MIXER_PHASES * -(-num_tokens // ROUND_TOKENS) + BESIDE_PHASES)

    def compute_workspace_nbytes(self, num_tokens: int, element_nbytes: int) -> int:
        """Return the workspace bytes that the recurrent layers need (mixer_bytes in mixer_structs.h)."""
        return max(
            (
                _compute_mixer_workspace_nbytes(one, num_tokens, element_nbytes)
                for one in self._structures.values()
            ),
            default=0,
        )

    def set_state_pointers(self, tokens: FusedTokens, states: SequenceStates | None) -> None:
        if states is None or states.segments is None:
            raise RuntimeError("select the sequences' recurrent states before this forward pass")
        table, addresses = states.segments.table, states.get_tensor_addresses()
        self._kept = [table, addresses]
        tokens.segments, tokens.segment_count = table.data_ptr(), table.shape[1]
        tokens.state_slots, tokens.states = states.slots, addresses.data_ptr()


def _compute_mixer_workspace_nbytes(mixer_struct: FusedMixer, num_tokens: int, element_nbytes: int) -> int:
    if mixer_struct.kind == MixerKind.heads_mixer:
        heads = HeadsLayer.from_address(mixer_struct.heads)
        return (
            int(min(num_tokens, ROUND_TOKENS) * (heads.conv.channels + mixer_struct.inner + 2 * STATE_LANES))
            * FLOAT_BYTES
        )
    if mixer_struct.kind == MixerKind.delta_mixer:
        conv, delta = ConvLayer.from_address(mixer_struct.conv), DeltaLayer.from_address(mixer_struct.delta)
        numbers = conv.channels + mixer_struct.width * bool(mixer_struct.by_key_heads)
        return int(num_tokens * (numbers * element_nbytes + 2 * delta.heads * FLOAT_BYTES)) + CACHE_LINE
    if mixer_struct.kind == MixerKind.channels_mixer:
        channels = ChannelsMixer.from_address(mixer_struct.channels)
        numbers = 2 * mixer_struct.inner + 2 * channels.rank + 2 * channels.scan.size
        return int(num_tokens * numbers * element_nbytes) + 4 * CACHE_LINE
    return 0
