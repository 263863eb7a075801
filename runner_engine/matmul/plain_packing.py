"""Packs unquantized weights into the layout that the kernels of kernels/products.h read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from runner_engine.kernels.matrix_structures import Matrix
from runner_engine.kernels.native import Kernels, get_optional_tensor_address
from runner_engine.matmul import huge_pages
from runner_engine.matmul.layer_weights import PackedWeights

PACKED_AT_ONCE = 2**22  # bytes of weights, which are in memory twice meanwhile


class PlainPackedWeights(PackedWeights):
    """Unquantized weights in packed blocks, and a bias.

    Shape: [packed blocks, steps, outputs of a block(, 2)]. A step is one input, or two inputs in
    bfloat16.
    """

    @classmethod
    def pack(
        cls,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        kernels: Kernels,
        tile_rows: int = 0,
        release_pages: Callable[[int, int], None] | None = None,
    ) -> PlainPackedWeights:
        """Pack weights [outputs, inputs], and pad the last packed block with zeros.

        tile_rows: 0, or the batch size from which tiles are used; sums then have the order of tiles.
        release_pages: called with the address and size of what has been read.
        """
        weight, width = weight.detach(), kernels.panel_width
        outputs, inputs = weight.shape
        steps = weight.contiguous().view(torch.int32)  # single numbers, or pairs in 16 bits
        missing = -outputs % width
        panels = huge_pages.allocate_weight_tensor(
            (outputs + missing) // width, steps.shape[1], width, dtype=torch.int32
        )
        whole, some = outputs // width, max(1, PACKED_AT_ONCE // (4 * width * steps.shape[1]))
        for first in range(0, whole, some):
            last = min(first + some, whole)
            read = steps[first * width : last * width]
            panels[first:last] = read.view(last - first, width, steps.shape[1]).transpose(1, 2)
            if release_pages is not None:
                release_pages(read.data_ptr(), read.nbytes)
        if missing:
            panels[whole] = nn.functional.pad(steps[whole * width :], (0, 0, 0, missing)).T
        bias = None if bias is None else bias.detach().contiguous()
        bias_at = get_optional_tensor_address(bias, weight.dtype, outputs)
        matrix = Matrix(weight=panels.data_ptr(), bias=bias_at, outputs=outputs, tile_rows=tile_rows)
        return cls(kernels, matrix, inputs, panels.view(weight.dtype), bias)

    @property
    def formats(self) -> tuple[torch.dtype, ...]:
        """Supported dtypes of activations."""
        return (self.weight.dtype,)

    def matmul(self, activations: torch.Tensor) -> torch.Tensor:
        if activations.dtype is not self.weight.dtype:
            raise ValueError(
                f"the activations must have the weights' dtype {self.weight.dtype}, not {activations.dtype}"
            )
        return super().matmul(activations)

    def gather_weights_of_outputs(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the weights of the given outputs: [..., inputs].

        Raises IndexError if an output does not exist.
        """
        if outputs.numel() and not 0 <= int(outputs.min()) <= int(outputs.max()) < self.matrix.outputs:
            wrong = int(outputs.min()) if int(outputs.min()) < 0 else int(outputs.max())
            raise IndexError(f"output {wrong} does not exist: the matrix has {self.matrix.outputs} outputs")
        # by numpy: torch starts and ends a region of threads for it, which takes longer than some
        # rows
        by_output = self.weight.detach().view(torch.int32).numpy().swapaxes(1, 2)
        panel, place = np.divmod(outputs.numpy(), by_output.shape[1])
        result = torch.empty(*outputs.shape, self.inputs, dtype=self.weight.dtype)
        result.view(torch.int32).numpy()[...] = by_output[panel, place]
        return result


def can_pack_weight(weight: torch.Tensor, kernels: Kernels | None) -> bool:
    """Whether the kernels can multiply weights [outputs, inputs].

    In 16-bit dtypes the number of inputs must be even.
    """
    has_product = kernels is not None and kernels.has_function("product", weight.dtype)
    return has_product and weight.shape[1] * weight.element_size() % 4 == 0
