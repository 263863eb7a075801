"""Matrices as C reads them, plain or as a library has quantized them, and their products with rows."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Protocol

import torch

from runner.engines.local.kernels.native import Kernels


class WeightFormat(IntEnum):
    """The layouts of weights, as in matrices.h."""

    plain = 0
    four_bit = 1
    row_int8 = 2
    weight_int8 = 3


class Matrix(ctypes.Structure):
    """As matrix in matrices.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_int64) for name in ("outputs", "kind")),
        *((name, ctypes.c_void_p) for name in ("scale", "constants")),
        ("block", ctypes.c_int64),
        ("threshold", ctypes.c_float),
    )


class LayerWeights(Protocol):
    """A layer's weights, as C reads them."""

    @property
    def matrix(self) -> Matrix:
        """The description that C gets."""

    @property
    def inputs(self) -> int:
        """The width of a row."""

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """The number formats that rows may have."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors whose addresses are in the matrix."""


def address(tensor: torch.Tensor | None) -> int | None:
    """Return where a tensor's numbers begin."""
    return None if tensor is None else tensor.data_ptr()


def multiply(kernels: Kernels, rows: torch.Tensor, weights: LayerWeights, workspace: int | None = None) -> torch.Tensor:
    """Return [..., outputs] for rows [..., inputs]; workspace: its address, for quantized weights."""
    rows = rows.contiguous()
    result = rows.new_empty(*rows.shape[:-1], weights.matrix.outputs)
    kernels(
        "product", rows.dtype, rows.data_ptr(), rows.numel() // weights.inputs, weights.inputs,
        ctypes.addressof(weights.matrix), workspace, result.data_ptr(),
    )  # fmt: skip
    return result
