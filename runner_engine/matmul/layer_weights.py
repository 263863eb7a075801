"""A layer's weights, quantized or not, in the format of the C kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

import torch

from runner_base import MIB
from runner_base.notes import Note, note
from runner_engine.checkpoints.pass_memory import compute_quantized_workspace_nbytes
from runner_engine.kernels.c_interface import SHIFT, WeightFormat
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.native import FORMATS, Kernels, get_optional_tensor_address, get_tensor_address

TRIAL_OUTPUTS = 70  # whole panels with a remainder
# of the largest output of a trial beside torch
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


class LayerWeights(Protocol):
    """Protocol for a layer's weights in the format of the C kernels."""

    @property
    def matrix(self) -> Matrix:
        """The C description of the matrix."""

    @property
    def inputs(self) -> int:
        """Number of inputs."""

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """The dtypes that activations may have."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The tensors whose memory addresses are in `matrix`. C reads them."""


class QuantizedWeights:
    """Quantized weights that the C kernels read directly from the quantization library's memory."""

    def __init__(
        self, weight_format: WeightFormat, inputs: int, outputs: int, input_dtypes: tuple[torch.dtype, ...]
    ) -> None:
        self.matrix, self.inputs, self.formats = (
            Matrix(outputs=outputs, kind=weight_format),
            inputs,
            input_dtypes,
        )
        self.tensors: tuple[torch.Tensor, ...] = ()

    def set_tensors_read_by_c(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: torch.Tensor,
        constants: torch.Tensor | None = None,
    ) -> None:
        """Set the tensors that C reads, and keep them alive.

        Raises ValueError if C cannot read their memory layout.
        """
        matrix, outputs, inputs = self.matrix, self.matrix.outputs, self.inputs
        if matrix.kind == WeightFormat.four_bit:
            matrix.weight = get_tensor_address(weight.view(-1), torch.uint8, outputs * inputs // 2)
            matrix.scale = get_tensor_address(scale, torch.bfloat16, inputs // matrix.block, outputs)
            matrix.constants = get_optional_tensor_address(constants, torch.bfloat16, 32)
        elif matrix.kind == WeightFormat.four_bit_rows:
            matrix.weight = get_tensor_address(weight.view(-1), torch.uint8, outputs * inputs // 2)
            matrix.scale = get_tensor_address(scale, torch.float32, outputs, inputs // matrix.block)
            matrix.constants = get_optional_tensor_address(constants, torch.float32, 16)
        else:
            of_scale = torch.bfloat16 if matrix.kind == WeightFormat.weight_int8 else torch.float32
            matrix.weight = get_tensor_address(weight, torch.int8, outputs, inputs)
            matrix.scale = get_tensor_address(scale, of_scale, outputs)
            matrix.constants = get_optional_tensor_address(constants, torch.int32, outputs)
        matrix.bias = None if bias is None else get_tensor_address(bias, bias.dtype, outputs)
        self.tensors = tuple(one for one in (weight, bias, scale, constants) if one is not None)


class MatmulWorkspace:
    """A buffer for quantized activations and unpacked weights. It grows to the needs of the largest layer."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def get_buffer(self, activations: torch.Tensor) -> torch.Tensor:
        inputs = activations.shape[-1]
        needed = compute_quantized_workspace_nbytes(
            activations.numel() // inputs, inputs, torch.get_num_threads()
        )
        if needed > self._bytes.numel():
            self._bytes = torch.empty(needed, dtype=torch.uint8)
        return self._bytes

    @property
    def mib(self) -> float:
        """Current size in MiB."""
        return self._bytes.nbytes / MIB


def multiply_with_kernel(
    kernels: Kernels,
    activations: torch.Tensor,
    weights: LayerWeights,
    workspace: torch.Tensor | None = None,
    kernel_name: str = "product",
) -> torch.Tensor:
    """Multiply activations [..., inputs] by weights with a C kernel. Returns [..., outputs].

    workspace: needed for quantized weights.
    """
    activations = activations.contiguous()
    if activations.shape[-1] != weights.inputs or activations.device.type != "cpu":
        raise ValueError(
            f"the matrix needs activations with {weights.inputs} inputs on the CPU, but got "
            f"{list(activations.shape)} on {activations.device}"
        )
    result = activations.new_empty(*activations.shape[:-1], weights.matrix.outputs)
    kernels(
        kernel_name,
        activations.dtype,
        activations.data_ptr(),
        activations.numel() // weights.inputs,
        weights.inputs,
        ctypes.addressof(weights.matrix),
        *((None, 0) if workspace is None else (workspace.data_ptr(), workspace.nbytes)),
        result.data_ptr(),
    )
    return result


@dataclass
class PackedWeights:
    """A weight matrix packed in the layout of the C kernels."""

    kernels: Kernels
    matrix: Matrix
    inputs: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    others: tuple[torch.Tensor, ...] = ()  # whose addresses are in the matrix
    workspace: MatmulWorkspace | None = None  # for rows in bytes

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Supported dtypes of activations."""
        return tuple(FORMATS) if self.bias is None else (self.bias.dtype,)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.weight, *self.others) if self.bias is None else (self.weight, self.bias, *self.others)

    def matmul(self, activations: torch.Tensor) -> torch.Tensor:
        return multiply_with_kernel(
            self.kernels,
            activations,
            self,
            None if self.workspace is None else self.workspace.get_buffer(activations),
        )


def compute_shift_correction(weight: torch.Tensor) -> torch.Tensor:
    """Return the sum of each output's weights, multiplied by SHIFT.

    Shifting all activations by SHIFT adds this amount to the output.
    """
    # some outputs at a time: torch copies them as int32 for the sums
    return torch.cat([some.sum(1, dtype=torch.int32) for some in torch.split(weight, 256)]) * SHIFT


def find_output_deviation(
    actual_outputs: torch.Tensor, expected_outputs: torch.Tensor, tolerance: float
) -> Note | None:
    """Return a note if an output's error exceeds `tolerance` times the largest expected output."""
    off = float(
        (actual_outputs.float() - expected_outputs.float()).abs().max()
        / expected_outputs.float().abs().max().clamp(min=1e-9)
    )
    return None if off <= tolerance else note("outputs_off", off=off)


def create_trial_activations(inputs: int, dtype: torch.dtype, tile_rows: int) -> torch.Tensor:
    """Return random activations for comparing kernels with torch.

    The number of activations leaves the last register or tile partly filled.
    """
    return torch.randn(
        33 if tile_rows else 7, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float32
    ).to(dtype)
