"""ctypes structures for unmerged adapters (adapter_structs.h)."""

from __future__ import annotations

import ctypes

from runner_engine.kernels.ctypes_fields import build_same_type_fields


class LowRank(ctypes.Structure):
    """C structure low_rank in adapter_structs.h."""

    _fields_ = build_same_type_fields(ctypes.c_void_p, "a", "b", "start", "scaling")


class AdapterTile(ctypes.Structure):
    """C structure adapter_tile in adapter_structs.h."""

    _fields_ = build_same_type_fields(ctypes.c_int32, "adapter", "first", "count")


class AdaptedTokens(ctypes.Structure):
    """C structure adapted_tokens in adapter_structs.h."""

    _fields_ = (
        ("token", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("tile", ctypes.c_void_p),
        *build_same_type_fields(ctypes.c_int64, "tiles", "adapters", "most_rank"),
    )


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "low_rank": LowRank,
    "adapter_tile": AdapterTile,
    "adapted_tokens": AdaptedTokens,
}
