"""A linear layer for quantization formats with one scale per group of inputs.

Its tensors stay as in the checkpoint, and in its memory-mapped file. The format's layout decodes
them. On a CPU the local engine multiplies them (runner_engine/matmul/groups.py); elsewhere torch
dequantizes some outputs at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from runner_engine.models.layouts.base import Layout

ROW_PART = 32  # inputs of a row in bytes that share a scale: as BYTE_PART in kernels/matrices.h
ROW_BLOCK = 256  # the same for weights that share one in blocks of so many: as BYTE_BLOCK there
UNPACKED_AT_ONCE = {"cpu": 2**20}  # weights of a layer that is multiplied by torch
ELSEWHERE = 2**24  # on a GPU, where each call takes time

DequantizeOutputs = Callable[[int, int, torch.dtype], torch.Tensor]  # the weights of some outputs


class GroupedLinear(nn.Linear):
    """A linear layer with group-quantized weights. Its parameters have the tensor names of the
    quantization format.
    """

    _names: tuple[str, ...] = ()
    has_byte_rows = False  # rows are rounded to 8 bits before they are multiplied
    _order: tuple[tuple[int, int], torch.Tensor | None] | None = (
        None  # `group_of`, and the tensor it was read from
    )

    def __init__(self, original: nn.Linear, layout: Layout, stored_tensors: dict[str, torch.Tensor]) -> None:
        """Replace the layer `original`. The quantized tensors `stored_tensors` may be empty and
        filled later.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = original.in_features, original.out_features
        self.bias = original.bias
        self.set_stored_tensors(layout, stored_tensors)

    def set_stored_tensors(self, layout: Layout, stored_tensors: dict[str, torch.Tensor]) -> None:
        """Replace the stored tensors by the same weights in another tensor layout."""
        for name in self._names:
            del self._parameters[name]
        self.layout, self._names = layout, tuple(stored_tensors)
        for name, tensor in stored_tensors.items():
            # also `weight`, a property here
            self._parameters[name] = nn.Parameter(tensor, requires_grad=False)

    @property
    def report_name(self) -> str:
        return self.layout.rounding_layers if self.layout.rows else type(self).__name__

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.layout.bits}, group={self.layout.group}"

    @property
    def stored(self) -> dict[str, torch.Tensor]:
        return {name: self._parameters[name] for name in self._names}  # type: ignore[misc]

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """The tensor of quantized codes, as a stand-in for the weight. Callers use only its device
        or address.
        """
        return self._parameters[self._names[0]]

    @property
    def num_weights(self) -> int:
        return self.in_features * self.out_features

    @property
    def input_group_indices(self) -> torch.Tensor | None:
        """Group index of each input, int64. None if groups consist of consecutive inputs."""
        order = self._parameters.get(self.layout.order_name)
        if order is None:
            return None
        of_tensor = order.data_ptr(), order._version  # it may be filled later
        if (
            self._order is None or self._order[0] != of_tensor
        ):  # looking at the numbers makes the host wait for a GPU
            groups = order.to(torch.int64)
            in_order = torch.arange(self.in_features, device=order.device) // self.layout.group
            # -1: the format's word for none
            is_plain = bool((order == -1).all()) or torch.equal(groups, in_order)
            self._order = of_tensor, None if is_plain else groups
        return self._order[1]

    def dequantize_outputs(self, first_output: int, last_output: int, dtype: torch.dtype) -> torch.Tensor:
        """Dequantize the weights of a range of outputs: [outputs, inputs].

        A weight is (code - zero point) * scale, or the value that the code stands for * scale. With
        16-bit scales the product is exact in float32, and it is rounded once. If `dtype` is the dtype
        of the scales, the libraries compute the same weights.
        """
        layout, stored, order = self.layout, self.stored, self.input_group_indices
        codes, values = layout.codes(stored, first_output, last_output), layout.values
        weights = codes.float() if values is None else values.to(codes.device)[codes.int()]
        scales = layout.scales(stored, first_output, last_output).float()
        zeros = (
            None
            if values is not None
            else layout.zeros(stored, first_output, last_output).float().expand_as(scales)
        )
        if order is None and self.in_features % layout.group:  # the last group is a short one
            order = torch.arange(self.in_features, device=weights.device) // layout.group
        if order is None:
            of_groups = weights.view(*scales.shape, layout.group)
            if zeros is not None:
                of_groups.sub_(zeros.unsqueeze(2))
            of_groups.mul_(scales.unsqueeze(2))
        else:
            if zeros is not None:
                weights.sub_(zeros[:, order])
            weights.mul_(scales[:, order])
        # in one layout: torch's sums of bfloat16 depend on it where no instruction multiplies that
        return weights.to(dtype, memory_format=torch.contiguous_format)

    def round_activations(self, activations: torch.Tensor) -> torch.Tensor:
        """Round activations to values that the quantization format supports."""
        return self.layout.round_activations(self.stored, activations)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply the input by the weights. Formats with quantized activations round the input first."""
        rows = self.round_activations(input) if self.layout.rows else input
        return self.multiply_dequantized(round_activations_to_int8(rows) if self.has_byte_rows else rows)

    def multiply_dequantized(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply the input by the weights, dequantizing a few outputs at a time. A slow fallback
        without C kernels.
        """
        most = UNPACKED_AT_ONCE.get(input.device.type, ELSEWHERE)
        return dequantize_and_multiply_in_chunks(
            self, self.dequantize_outputs, input, max(32, most // self.in_features // 32 * 32)
        )


def dequantize_and_multiply_in_chunks(
    layer: nn.Linear, dequantize_outputs: DequantizeOutputs, input: torch.Tensor, num_outputs: int
) -> torch.Tensor:
    """Multiply the input by a layer's weights, dequantizing `num_outputs` outputs at a time."""
    # in one piece from the start: on the heap, parts between what is freed would keep the whole
    # matrix in memory
    result = input.new_empty(*input.shape[:-1], layer.out_features)
    for first in range(0, layer.out_features, num_outputs):
        last = min(first + num_outputs, layer.out_features)
        bias = None if layer.bias is None else layer.bias[first:last]
        result[..., first:last] = nn.functional.linear(
            input, dequantize_outputs(first, last, input.dtype), bias
        )
    return result


def round_activations_to_int8(activations: torch.Tensor, group_size: int = ROW_PART) -> torch.Tensor:
    """Round activations to symmetric int8 per group. The largest of `group_size` neighbouring
    activations becomes 127.
    """
    # the last part may be a short one
    filled = nn.functional.pad(activations.float(), (0, -activations.shape[-1] % group_size))
    parts = filled.reshape(*activations.shape[:-1], -1, group_size)
    most = parts.abs().amax(-1, keepdim=True)
    # one rounding; `127 / most` would have two
    factor = torch.where(most > 0, torch.tensor(127.0) / most, 0)
    return (
        ((parts * factor).round() * (most / 127))
        .flatten(-2)[..., : activations.shape[-1]]
        .to(activations.dtype)
    )


def count_weights_beyond_stored_elements(model: nn.Module) -> int:
    """Return how many more weights the grouped layers encode than their parameters have elements."""
    layers = {id(module.weight): module for module in model.modules() if isinstance(module, GroupedLinear)}
    return sum(
        layer.num_weights - sum(tensor.numel() for tensor in layer.stored.values())
        for layer in layers.values()
    )
