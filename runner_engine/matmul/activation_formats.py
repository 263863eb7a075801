"""Describes how activations are quantized before a matmul.

Matrices with equal formats share the quantized activations.
"""

from __future__ import annotations

from runner_engine.kernels.c_interface import WeightFormat
from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.matmul.blocks import ROW_PARTS


def get_activation_quantization_parameters(matrix: Matrix) -> tuple[float, ...]:
    """Return the parameters of a matrix's activation quantization.

    Matrices with equal parameters can share the quantized activations.
    """
    zero_point = matrix.zero_point if matrix.kind == WeightFormat.int8_stored else 0
    row_part = ROW_PARTS[matrix.block] if matrix.kind == WeightFormat.byte_blocks else 0
    return matrix.kind, matrix.threshold, matrix.row_scale, zero_point, row_part
