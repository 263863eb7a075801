"""C structures of weight matrices and norms, which other structures contain."""

from __future__ import annotations

import ctypes

from runner_engine.kernels.ctypes_fields import build_same_type_fields

PRODUCT_PHASES = 3


class Matrix(ctypes.Structure):
    """C structure matrix in matrices.h."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_void_p, "weight", "bias"),
        *build_same_type_fields(ctypes.c_int64, "outputs", "kind"),
        *build_same_type_fields(ctypes.c_void_p, "scale", "constants"),
        ("block", ctypes.c_int64),
        *build_same_type_fields(ctypes.c_float, "threshold", "row_scale", "scale_divisor"),
        ("tile_rows", ctypes.c_int64),
        *build_same_type_fields(ctypes.c_int64, "bits", "scale_type", "zero_point", "code_type"),
        ("adapters", ctypes.c_void_p),
    )


class FusedNorm(ctypes.Structure):
    """C structure fused_norm in norm_structs.h. A null weight means that there is no norm."""

    _fields_ = (
        *build_same_type_fields(ctypes.c_void_p, "weight", "bias"),
        ("kind", ctypes.c_int64),
        *build_same_type_fields(ctypes.c_float, "epsilon", "unused"),
    )
