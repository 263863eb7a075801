"""ctypes structure for one layer's KV format: kv_layer in attention.h."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from runner_engine.kernels.ctypes_fields import build_same_type_fields


class KvCode(IntEnum):
    """Storage formats of keys and values, with the enum values of the C code."""

    kv_as_model = 0
    kv_int8 = 1
    kv_int4 = 2


class KvLayer(ctypes.Structure):
    """C structure kv_layer in attention.h."""

    _fields_ = build_same_type_fields(
        ctypes.c_int64,
        *(
            "keys",
            "values",
            "keys_before",
            "values_before",
            "rotated",
            "all_keys",
            "all_values",
            "plain_before",
        ),
    )
