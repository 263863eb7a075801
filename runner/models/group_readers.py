"""Reads the layers of GPTQ, AWQ and packed compressed-tensors, whose bits and groups follow from their shapes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from runner.checkpoints.weight_files import Tensor
from runner.models.group_layouts import AwqLayout, GptqLayout, Layout, PackedLayout
from runner.models.grouped import GroupedLinear
from runner.models.layout_reader import MAX_INPUTS, ORDERS, SCALES, LayoutReader, check_present, check_shape, wrong
from runner.quantization.grouped import GroupSettings


class GroupsReader(LayoutReader):
    """What the three have in common."""

    groups_at: ClassVar[int] = 0  # in the shape of the scales
    optional: ClassVar[tuple[str, ...]] = ()

    def layout_of(self, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Layout:
        """A layer may have another group size than the settings say."""
        check_present(found, [name for name in self.kind.names if name not in self.optional])
        codes, scales, inputs = found[self.kind.names[0]], found[self.kind.scale_name], module.in_features
        if len(scales.shape) != 2 or len(codes.shape) != 2 or inputs >= MAX_INPUTS:
            raise wrong(codes, f"{list(codes.shape)} with scales {list(scales.shape)}: matrices expected")
        groups = scales.shape[self.groups_at]
        bits = self.bits_of(settings, codes, inputs)
        group = inputs if settings.group == -1 else min(settings.group, inputs)
        if groups < 1 or (-(-inputs // group) != groups and inputs % groups):
            raise wrong(scales, f"{list(scales.shape)} for {inputs} inputs in groups of {group}")
        if -(-inputs // group) != groups:
            group = inputs // groups  # the layer has settings of its own
        layout = self.kind(bits, group, inputs, module.out_features, **self.extra(settings))
        for name, expected in layout.shapes().items():
            if name in found:
                check_shape(found[name], [expected], module)
        return layout

    def bits_of(self, settings: GroupSettings, codes: Tensor, inputs: int) -> int:
        """Return the bits of a layer's codes, which follow from their size."""
        return 4

    def extra(self, settings: GroupSettings) -> dict[str, Any]:
        """Return the arguments that only this layout has."""
        return {}

    def types(self, name: str) -> dict[str, torch.dtype]:
        """Codes and zero points are words."""
        others = {self.kind.scale_name: SCALES, self.kind.order_name: ORDERS}
        return others.get(name, {"I32": torch.int32})

    def problem(self, layer: GroupedLinear, name: str, tensor: torch.Tensor) -> str:
        """Groups must exist."""
        if name == self.kind.order_name and layer.group_of is not None:
            low, high = int(tensor.min()), int(tensor.max())
            if low < 0 or high >= layer.layout.groups:
                return f"an input is in group {low if low < 0 else high}, and there are {layer.layout.groups}"
        return super().problem(layer, name, tensor)


class GptqReader(GroupsReader):
    """GPTQ's words hold neighbouring inputs."""

    kind = GptqLayout
    optional = (GptqLayout.order_name,)

    def bits_of(self, settings: GroupSettings, codes: Tensor, inputs: int) -> int:
        """Codes fill whole words."""
        bits, rest = divmod(codes.shape[0] * 32, inputs)
        if rest or bits not in range(2, 9):
            raise wrong(codes, f"{list(codes.shape)} for {inputs} inputs: 2 to 8 bits of each expected")
        return bits

    def extra(self, settings: GroupSettings) -> dict[str, Any]:
        """Return which version it is."""
        return {"is_minus_one": settings.is_minus_one}


class AwqReader(GroupsReader):
    """AWQ has four bits."""

    kind = AwqLayout


class PackedReader(GroupsReader):
    """compressed-tensors' words hold neighbouring inputs; the last one may be partly used."""

    kind = PackedLayout
    groups_at = 1
    optional = (PackedLayout.order_name, "weight_zero_point")

    def bits_of(self, settings: GroupSettings, codes: Tensor, inputs: int) -> int:
        """Return the one of the settings' bits that fits."""
        fitting = [bits for bits in settings.bits if -(-inputs * bits // 32) == codes.shape[1]]
        if not fitting:
            bits = " or ".join(map(str, settings.bits))
            raise wrong(codes, f"{list(codes.shape)} for {inputs} inputs of {bits} bits")
        return fitting[0]

    def types(self, name: str) -> dict[str, torch.dtype]:
        """The shape is a tensor, too."""
        return ORDERS if name == "weight_shape" else super().types(name)

    def problem(self, layer: GroupedLinear, name: str, tensor: torch.Tensor) -> str:
        """The shape that it holds must be the layer's."""
        if name == "weight_shape" and tensor.tolist() != [layer.out_features, layer.in_features]:
            return f"{tensor.tolist()}, and the layer is {[layer.out_features, layer.in_features]}"
        return super().problem(layer, name, tensor)
