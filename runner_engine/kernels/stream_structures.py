"""C structures of head shapes, inputs of layers and streams (stream_structs.h, head_structs.h)."""

from __future__ import annotations

import ctypes

from runner_engine.kernels.ctypes_fields import build_same_type_fields
from runner_engine.kernels.matrix_structures import PRODUCT_PHASES, FusedNorm, Matrix

MAX_STREAMS = 4
# of a pass with inputs of layers and of each such layer; of a layer with streams
INPUT_PHASES, STREAM_PHASES = 2 * PRODUCT_PHASES + 2, 2 * PRODUCT_PHASES + 3
# of the ends of a pass with streams
STREAM_ENDS_PHASES = MAX_STREAMS * (2 * PRODUCT_PHASES + 2)
NUMBERS = {
    "INPUT_PHASES": INPUT_PHASES,
    "STREAM_PHASES": STREAM_PHASES,
    "STREAM_ENDS_PHASES": STREAM_ENDS_PHASES,
    "MAX_STREAMS": MAX_STREAMS,
}


class HeadShape(ctypes.Structure):
    """C structure head_shape in head_structs.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_int64, "kv_heads", "dim", "reads_earlier", "values_are_keys"),
        ("norm_v", FusedNorm),
    )


class LayerInput(ctypes.Structure):
    """C structure layer_input in stream_structs.h."""

    _fields_ = (
        *build_same_type_fields(Matrix, "gate", "out"),
        ("after", FusedNorm),
        *build_same_type_fields(ctypes.c_int64, "first", "width", "activation"),
    )


class StreamLayer(ctypes.Structure):
    """C structure stream_layer in stream_structs.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_void_p, "router", "predict", "correct", "scale"),
        *build_same_type_fields(FusedNorm, "router_norm", "after_narrow"),
        *build_same_type_fields(Matrix, "narrow", "wide"),
        *build_same_type_fields(ctypes.c_float, "router_scale", "unused"),
    )


class ModelStreams(ctypes.Structure):
    """C structure model_streams in stream_structs.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_int64, "count", "active"),
        *build_same_type_fields(Matrix * (MAX_STREAMS - 1), "into", "out_of"),
    )


class ModelInputs(ctypes.Structure):
    """C structure model_inputs in stream_structs.h."""

    _fields_ = (
        ("projection", Matrix),
        ("norm", FusedNorm),
        ("table", ctypes.c_void_p),
        *build_same_type_fields(ctypes.c_int64, "rows", "width"),
        *build_same_type_fields(ctypes.c_float, "table_scale", "projected_scale", "scale", "unused"),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "head_shape": HeadShape,
    "layer_input": LayerInput,
    "model_inputs": ModelInputs,
    "stream_layer": StreamLayer,
    "model_streams": ModelStreams,
}
