"""What C has to know of how a layer's keys and values are stored: kv_layer in attention.h."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from runner_engine.kernels.c_fields import fields_of


class KvCode(IntEnum):
    """How keys, or values, are stored."""

    kv_as_model = 0
    kv_int8 = 1
    kv_int4 = 2


class KvLayer(ctypes.Structure):
    """kv_layer in attention.h."""

    _fields_ = fields_of(
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
