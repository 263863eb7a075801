"""ctypes structures and constants for recurrent layers."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from runner_engine.kernels.ctypes_fields import build_same_type_fields

STATE_LANES = 16  # such layers have multiples of so many channels, and of so many results of a head
# inputs of a convolution; a key's width in the gated delta rule
MAX_CONVOLVED, MAX_KEY_DIM = (8, 512)
GATE_BY_SILU, GATE_BY_SIGMOID = 0, 1  # the activation of its gate
CHANNEL_TILE = 4  # a channel's state has a multiple of so many numbers
STATE_TILE = 4  # and a head's, for each of its results
ROUND_TOKENS = 128  # at most so many tokens need a workspace at once
MIXER_MATRICES = 6  # that compute side by side what a layer of a fused pass reads
MIXER_PHASES = 4  # of such a layer, for ROUND_TOKENS tokens
LAYER_STATES = 2  # tensors of a layer's state


class MixerKind(IntEnum):
    """The computation that a fused recurrent layer does between its matmuls (mixers.h)."""

    convolution_mixer = 0  # of LFM2
    delta_mixer = 1  # the gated delta rule behind a convolution
    heads_mixer = 2  # Mamba-2
    channels_mixer = 3  # Mamba


class ConvLayer(ctypes.Structure):
    """C structure conv_layer in recurrent_structs.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_void_p, "weight", "bias"),
        *build_same_type_fields(ctypes.c_int64, "channels", "kernel", "has_silu"),
    )


class HeadsLayer(ctypes.Structure):
    """C structure heads_layer in recurrent_structs.h."""

    _fields_ = (
        ("conv", ConvLayer),
        *build_same_type_fields(ctypes.c_void_p, "step_bias", "decay", "skip", "norm"),
        *build_same_type_fields(
            ctypes.c_int64, "heads", "width", "size", "groups", "norm_groups", "norm_before_gate"
        ),
        *build_same_type_fields(ctypes.c_float, "epsilon", "least_step", "most_step"),
    )


class DeltaLayer(ctypes.Structure):
    """C structure delta_layer in delta_rule.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_int64, "key_heads", "heads", "key_dim", "value_dim", "decays"),
        ("norm", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("gate", ctypes.c_int64),
    )


class ChannelsLayer(ctypes.Structure):
    """C structure channels_layer in recurrent_structs.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_void_p, "decay", "skip", "step_bias"),
        *build_same_type_fields(ctypes.c_int64, "channels", "size", "groups"),
    )


class FusedMixer(ctypes.Structure):
    """C structure fused_mixer in mixer_structs.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_int64, "kind", "number", "width", "inner", "by_key_heads"),
        *build_same_type_fields(ctypes.c_void_p, "conv", "delta", "heads", "channels"),
        *build_same_type_fields(ctypes.c_void_p, "step_bias", "decay", "columns"),
        *build_same_type_fields(ctypes.c_float, "rate_scale", "unused"),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "conv_layer": ConvLayer,
    "heads_layer": HeadsLayer,
    "channels_layer": ChannelsLayer,
    "delta_layer": DeltaLayer,
    "fused_mixer": FusedMixer,
}
NUMBERS = {
    "STATE_LANES": STATE_LANES,
    "MAX_CONVOLVED": MAX_CONVOLVED,
    "CHANNEL_TILE": CHANNEL_TILE,
    "STATE_TILE": STATE_TILE,
    "ROUND_TOKENS": ROUND_TOKENS,
    "MAX_KEY_DIM": MAX_KEY_DIM,
    "GATE_BY_SILU": GATE_BY_SILU,
    "GATE_BY_SIGMOID": GATE_BY_SIGMOID,
    "MIXER_MATRICES": MIXER_MATRICES,
    "MIXER_PHASES": MIXER_PHASES,
    "LAYER_STATES": LAYER_STATES,
    **{kind.name.upper(): int(kind) for kind in MixerKind},
}
