"""The layers of a fused pass that carry a state: their structures, and the states that a pass reads
and writes."""

from __future__ import annotations

import ctypes
from typing import Any

from runner_engine.decode.layouts import ModelLayout
from runner_engine.kernels.shared_numbers import BESIDE_PHASES, CACHE_LINE, FusedTokens
from runner_engine.kernels.state_numbers import (
    MIXER_PHASES,
    ROUND_TOKENS,
    STATE_LANES,
    ConvLayer,
    DeltaLayer,
    FusedMixer,
    HeadsLayer,
    MixerKind,
)
from runner_engine.recurrent import RowStates

FLOAT_BYTES = 4


class FusedMixers:
    """Those layers of a model; none in most."""

    def __init__(self, layout: ModelLayout) -> None:
        found = [layer.mixer if layer.beside is None else layer.beside.mixer for layer in layout.layers]
        self._parts = {number: parts for number, parts in enumerate(found) if parts is not None}
        self._attends = [layer.attention is not None for layer in layout.layers]
        self.has_beside = any(layer.beside for layer in layout.layers)
        self.count = len(self._parts)
        made = [parts.structure(at) for at, parts in enumerate(self._parts.values())]
        self._structures = dict(zip(self._parts, made, strict=True))
        # numbers of a token before and behind the widest
        self.before = max((one.width for one in made), default=0)
        self.behind = max((one.inner for one in made), default=0)
        self._kept: list[Any] = []  # what a pass has the addresses of

    def address(self, layer: int) -> int:
        """Return where C reads what a layer computes."""
        return ctypes.addressof(self._structures[layer])

    def attending_before(self, layer: int) -> int:
        """Return how many layers before this one attend."""
        return sum(self._attends[:layer])

    def phases(self, tokens: int) -> int:
        """Return how many phases threads go through, beside those of any layer, as phases_of in
        fused_forward.h."""
        return self.count * (MIXER_PHASES * -(-tokens // ROUND_TOKENS) + BESIDE_PHASES)

    def bytes(self, tokens: int, size: int) -> int:
        """Return the memory for what they compute, as mixer_bytes in mixer_structs.h; size: of a
        number."""
        return max((_bytes(one, tokens, size) for one in self._structures.values()), default=0)

    def point(self, tokens: FusedTokens, states: RowStates | None) -> None:
        """Let a pass read and write the states of its rows."""
        if states is None or states.segments is None:
            raise RuntimeError("no states are read in this pass")
        table, addresses = states.segments.table, states.addresses()
        self._kept = [table, addresses]
        tokens.segments, tokens.segment_count = table.data_ptr(), table.shape[1]
        tokens.state_slots, tokens.states = states.slots, addresses.data_ptr()


def _bytes(mixer: FusedMixer, tokens: int, size: int) -> int:
    if mixer.kind == MixerKind.heads_mixer:
        heads = HeadsLayer.from_address(mixer.heads)
        return (
            int(min(tokens, ROUND_TOKENS) * (heads.conv.channels + mixer.inner + 2 * STATE_LANES))
            * FLOAT_BYTES
        )
    if mixer.kind == MixerKind.delta_mixer:
        conv, delta = ConvLayer.from_address(mixer.conv), DeltaLayer.from_address(mixer.delta)
        numbers = conv.channels + mixer.width * bool(mixer.by_key_heads)
        return int(tokens * (numbers * size + 2 * delta.heads * FLOAT_BYTES)) + CACHE_LINE
    return 0
