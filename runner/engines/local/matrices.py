"""A layer's weights as our own products read them, plain or as a library has quantized them."""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch

from runner.engines.local.kernels.native import Kernels
from runner.engines.local.kernels.shared_numbers import Matrix


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


def multiply(
    kernels: Kernels,
    rows: torch.Tensor,
    weights: LayerWeights,
    workspace: torch.Tensor | None = None,
    function: str = "product",
) -> torch.Tensor:
    """Return [..., outputs] for rows [..., inputs] by a function of the kernels; workspace: for quantized weights."""
    rows = rows.contiguous()
    if rows.shape[-1] != weights.inputs or rows.device.type != "cpu":
        raise ValueError(f"rows {list(rows.shape)} on {rows.device} for a matrix of {weights.inputs} inputs")
    result = rows.new_empty(*rows.shape[:-1], weights.matrix.outputs)
    kernels(
        function, rows.dtype, rows.data_ptr(), rows.numel() // weights.inputs, weights.inputs,
        ctypes.addressof(weights.matrix),
        *((None, 0) if workspace is None else (workspace.data_ptr(), workspace.nbytes)), result.data_ptr(),
    )  # fmt: skip
    return result
