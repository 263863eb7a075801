"""How rows are quantized before they are multiplied by a matrix: once for all matrices that share
them."""

from __future__ import annotations

from runner_engine.kernels.shared_numbers import Matrix, WeightFormat
from runner_engine.matmul.blocks import ROW_PARTS


def row_format(matrix: Matrix) -> tuple[float, ...]:
    """Return how a matrix's rows are quantized before they are multiplied."""
    zero_point = matrix.zero_point if matrix.kind == WeightFormat.int8_stored else 0
    row_part = ROW_PARTS[matrix.block] if matrix.kind == WeightFormat.byte_blocks else 0
    return matrix.kind, matrix.threshold, matrix.row_scale, zero_point, row_part
