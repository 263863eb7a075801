"""The linear layer of all formats with a scale for each group of inputs: what is in its tensors,
its layout knows.

They stay as in the checkpoint, and in its mapped file. On a CPU the local engine multiplies them
(runner_engine/matmul/groups.py); elsewhere torch unpacks some outputs at a time.
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

Unpacked = Callable[[int, int, torch.dtype], torch.Tensor]  # the weights of some outputs


class GroupedLinear(nn.Linear):
    """A linear layer with the tensors of a format, under its names."""

    _names: tuple[str, ...] = ()
    has_byte_rows = False  # rows are rounded to 8 bits before they are multiplied
    _order: tuple[tuple[int, int], torch.Tensor | None] | None = (
        None  # `group_of`, and the tensor it was read from
    )

    def __init__(self, like: nn.Linear, layout: Layout, stored: dict[str, torch.Tensor]) -> None:
        """like: the layer in whose place it is. stored: the tensors, which may be filled later."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.bias = like.bias
        self.hold(layout, stored)

    def hold(self, layout: Layout, stored: dict[str, torch.Tensor]) -> None:
        """Hold the same numbers in another layout."""
        for name in self._names:
            del self._parameters[name]
        self.layout, self._names = layout, tuple(stored)
        for name, tensor in stored.items():
            # also `weight`, a property here
            self._parameters[name] = nn.Parameter(tensor, requires_grad=False)

    @property
    def class_name(self) -> str:
        """What reports call it."""
        return self.layout.rounding_layers if self.layout.rows else type(self).__name__

    def extra_repr(self) -> str:
        """Return what `print(model)` shows of it."""
        return f"{self.in_features}, {self.out_features}, bits={self.layout.bits}, group={self.layout.group}"

    @property
    def stored(self) -> dict[str, torch.Tensor]:
        """The tensors of the format, by its names."""
        return {name: self._parameters[name] for name in self._names}  # type: ignore[misc]

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """The codes as stored, for code that asks where a layer's weight is."""
        return self._parameters[self._names[0]]

    @property
    def numbers(self) -> int:
        """How many numbers the tensors stand for."""
        return self.in_features * self.out_features

    @property
    def group_of(self) -> torch.Tensor | None:
        """The group of each input, int64; None if they lie in order."""
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

    def unpacked(self, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights of some outputs, [outputs, inputs].

        (code - zero point) * scale, or the value of the code * scale: exact in float32 with a scale
        of 16 bits, and rounded once. That is what the libraries compute where `dtype` is their
        scales' own.
        """
        layout, stored, order = self.layout, self.stored, self.group_of
        codes, values = layout.codes(stored, first, last), layout.values
        weights = codes.float() if values is None else values.to(codes.device)[codes.int()]
        scales = layout.scales(stored, first, last).float()
        zeros = None if values is not None else layout.zeros(stored, first, last).float().expand_as(scales)
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

    def prepared(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows as the numbers that the format rounds them to."""
        return self.layout.prepared(self.stored, rows)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Round the rows where that belongs to the layer, and multiply them."""
        rows = self.prepared(input) if self.layout.rows else input
        return self.multiplied(rounded_by_parts(rows) if self.has_byte_rows else rows)

    def multiplied(self, input: torch.Tensor) -> torch.Tensor:
        """Unpack some outputs at a time: slow, for places where there are no kernels."""
        most = UNPACKED_AT_ONCE.get(input.device.type, ELSEWHERE)
        return multiply_in_steps(self, self.unpacked, input, max(32, most // self.in_features // 32 * 32))


def multiply_in_steps(layer: nn.Linear, unpacked: Unpacked, input: torch.Tensor, step: int) -> torch.Tensor:
    """Return a layer's product with weights of so many outputs at a time."""
    # in one piece from the start: on the heap, parts between what is freed would keep the whole
    # matrix in memory
    result = input.new_empty(*input.shape[:-1], layer.out_features)
    for first in range(0, layer.out_features, step):
        last = min(first + step, layer.out_features)
        bias = None if layer.bias is None else layer.bias[first:last]
        result[..., first:last] = nn.functional.linear(input, unpacked(first, last, input.dtype), bias)
    return result


def rounded_by_parts(rows: torch.Tensor, each: int = ROW_PART) -> torch.Tensor:
    """Return rows as the numbers that their bytes stand for: of `each` neighbours the largest has
    127."""
    # the last part may be a short one
    filled = nn.functional.pad(rows.float(), (0, -rows.shape[-1] % each))
    parts = filled.reshape(*rows.shape[:-1], -1, each)
    most = parts.abs().amax(-1, keepdim=True)
    # one rounding; `127 / most` would have two
    factor = torch.where(most > 0, torch.tensor(127.0) / most, 0)
    return ((parts * factor).round() * (most / 127)).flatten(-2)[..., : rows.shape[-1]].to(rows.dtype)


def hidden_parameters(model: nn.Module) -> int:
    """Return by how much the numbers in groups are more than the parameters that hold them."""
    layers = {id(module.weight): module for module in model.modules() if isinstance(module, GroupedLinear)}
    return sum(
        layer.numbers - sum(tensor.numel() for tensor in layer.stored.values()) for layer in layers.values()
    )
