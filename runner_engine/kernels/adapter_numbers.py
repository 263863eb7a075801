"""What adapters beside a model's matrices are to C (adapter_structs.h)."""

from __future__ import annotations

import ctypes

from runner_engine.kernels.c_fields import fields_of


class LowRank(ctypes.Structure):
    """low_rank in adapter_structs.h."""

    _fields_ = fields_of(ctypes.c_void_p, "a", "b", "start", "scaling")


class AdapterTile(ctypes.Structure):
    """adapter_tile in adapter_structs.h."""

    _fields_ = fields_of(ctypes.c_int32, "adapter", "first", "count")


class AdaptedTokens(ctypes.Structure):
    """adapted_tokens in adapter_structs.h."""

    _fields_ = (
        ("token", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("tile", ctypes.c_void_p),
        *fields_of(ctypes.c_int64, "tiles", "adapters", "most_rank"),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "low_rank": LowRank,
    "adapter_tile": AdapterTile,
    "adapted_tokens": AdaptedTokens,
}
