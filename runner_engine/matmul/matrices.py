"""A layer's weights as our own products read them, plain or as a library has quantized them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

import torch

from runner_base import MIB
from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import quantized_workspace_bytes
from runner_engine.kernels.native import FORMATS, Kernels, pointer, pointer_or_none
from runner_engine.kernels.shared_numbers import SHIFT, Matrix, WeightFormat

TRIAL_OUTPUTS = 70  # whole panels with a remainder
# of the largest output of a trial beside torch
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


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


class QuantizedWeights:
    """A layer's weights as C reads them, in the library's memory."""

    def __init__(
        self, kind: WeightFormat, inputs: int, outputs: int, formats: tuple[torch.dtype, ...]
    ) -> None:
        self.matrix, self.inputs, self.formats = Matrix(outputs=outputs, kind=kind), inputs, formats
        self.tensors: tuple[torch.Tensor, ...] = ()

    def point_at(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: torch.Tensor,
        constants: torch.Tensor | None = None,
    ) -> None:
        """Use these tensors for the next product, and keep them alive; ValueError unless they are
        as C reads them."""
        matrix, outputs, inputs = self.matrix, self.matrix.outputs, self.inputs
        if matrix.kind == WeightFormat.four_bit:
            matrix.weight = pointer(weight.view(-1), torch.uint8, outputs * inputs // 2)
            matrix.scale = pointer(scale, torch.bfloat16, inputs // matrix.block, outputs)
            matrix.constants = pointer_or_none(constants, torch.bfloat16, 32)
        elif matrix.kind == WeightFormat.four_bit_rows:
            matrix.weight = pointer(weight.view(-1), torch.uint8, outputs * inputs // 2)
            matrix.scale = pointer(scale, torch.float32, outputs, inputs // matrix.block)
            matrix.constants = pointer_or_none(constants, torch.float32, 16)
        else:
            of_scale = torch.bfloat16 if matrix.kind == WeightFormat.weight_int8 else torch.float32
            matrix.weight = pointer(weight, torch.int8, outputs, inputs)
            matrix.scale = pointer(scale, of_scale, outputs)
            matrix.constants = pointer_or_none(constants, torch.int32, outputs)
        matrix.bias = None if bias is None else pointer(bias, bias.dtype, outputs)
        self.tensors = tuple(one for one in (weight, bias, scale, constants) if one is not None)


class Workspace:
    """Memory in which products quantize rows, and unpack weights; it grows with the largest
    layer."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Return enough for a product of these rows."""
        inputs = rows.shape[-1]
        needed = quantized_workspace_bytes(rows.numel() // inputs, inputs, torch.get_num_threads())
        if needed > self._bytes.numel():
            self._bytes = torch.empty(needed, dtype=torch.uint8)
        return self._bytes

    @property
    def mib(self) -> float:
        """Its size so far."""
        return self._bytes.nbytes / MIB


def multiply(
    kernels: Kernels,
    rows: torch.Tensor,
    weights: LayerWeights,
    workspace: torch.Tensor | None = None,
    function: str = "product",
) -> torch.Tensor:
    """Return [..., outputs] for rows [..., inputs] by a function of the kernels; workspace: for
    quantized weights."""
    rows = rows.contiguous()
    if rows.shape[-1] != weights.inputs or rows.device.type != "cpu":
        raise ValueError(f"rows {list(rows.shape)} on {rows.device} for a matrix of {weights.inputs} inputs")
    result = rows.new_empty(*rows.shape[:-1], weights.matrix.outputs)
    kernels(
        function,
        rows.dtype,
        rows.data_ptr(),
        rows.numel() // weights.inputs,
        weights.inputs,
        ctypes.addressof(weights.matrix),
        *((None, 0) if workspace is None else (workspace.data_ptr(), workspace.nbytes)),
        result.data_ptr(),
    )
    return result


@dataclass
class PackedWeights:
    """Weights in panels, as C reads them."""

    kernels: Kernels
    matrix: Matrix
    inputs: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    others: tuple[torch.Tensor, ...] = ()  # whose addresses are in the matrix
    workspace: Workspace | None = None  # for rows in bytes

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Rows may have any number format; a bias has the rows' own."""
        return tuple(FORMATS) if self.bias is None else (self.bias.dtype,)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors whose addresses are in the matrix."""
        return (self.weight, *self.others) if self.bias is None else (self.weight, self.bias, *self.others)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [..., outputs] for rows [..., inputs]."""
        return multiply(self.kernels, rows, self, None if self.workspace is None else self.workspace.of(rows))


def shifted_sums(weight: torch.Tensor) -> torch.Tensor:
    """Return what SHIFT, which is added to the numbers of rows, adds to the sums of each output."""
    # some outputs at a time: torch copies them as int32 for the sums
    return torch.cat([some.sum(1, dtype=torch.int32) for some in torch.split(weight, 256)]) * SHIFT


def difference(found: torch.Tensor, expected: torch.Tensor, allowed: float) -> Note | None:
    """Return by how much outputs are off; None if that is only rounding: so much of the largest."""
    off = float((found.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-9))
    return None if off <= allowed else note("outputs_off", off=off)


def trial_rows(inputs: int, dtype: torch.dtype, tile_rows: int) -> torch.Tensor:
    """Return rows with a remainder of registers, or of tiles, by which weights in strips are tried
    beside torch."""
    return torch.randn(
        33 if tile_rows else 7, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float32
    ).to(dtype)
