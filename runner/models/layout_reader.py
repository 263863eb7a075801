"""What tells the layers of one layout in a checkpoint: their tensors, types, shapes, and the numbers these may hold.

Headers are checked before anything is read, and numbers after they were loaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from runner.checkpoints.weight_files import Tensor
from runner.core.errors import DataError
from runner.models.group_layouts import Layout
from runner.models.grouped import GroupedLinear
from runner.quantization.grouped import GroupSettings

SCALES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
ORDERS = {"I32": torch.int32, "I64": torch.int64}
MAX_INPUTS = 2**24  # a layer's inputs and groups are counted in numbers that C can hold


class LayoutReader(ABC):
    """Reads one kind of layout; it has no state."""

    kind: ClassVar[type[Layout]]

    @property
    def named_by(self) -> str:
        """The end of the name of a tensor that only such a layer has."""
        return self.kind.named_by or self.kind.names[0]

    @abstractmethod
    def layout_of(self, settings: GroupSettings, found: dict[str, Tensor], module: nn.Linear) -> Layout:
        """Return the layout of a layer from its tensors; DataError unless their shapes belong together."""

    @abstractmethod
    def types(self, name: str) -> dict[str, torch.dtype]:
        """Return the number formats that a tensor may have, by their names in files."""

    def is_needed(self, tensor: Tensor) -> bool:
        """Whether a tensor must belong to such a layer, because nothing else can be made of it."""
        end = tensor.name.rpartition(".")[2]
        return end in self.kind.names and end != "weight"

    def layer(self, like: nn.Linear, layout: Layout, stored: dict[str, torch.Tensor]) -> GroupedLinear:
        """Return the layer, without its numbers."""
        return GroupedLinear(like, layout, stored)

    def problem(self, layer: GroupedLinear, name: str, tensor: torch.Tensor) -> str:
        """Say what is wrong with the numbers of a tensor; empty if nothing is."""
        if name in (self.kind.scale_name, "input_scale") and not tensor.isfinite().all():
            return "a scale is not a finite number"
        if name == "input_scale" and not (tensor > 0).all():
            return "a scale is not above 0"
        return ""


def wrong(tensor: Tensor, what: str) -> DataError:
    """Return an error that names a tensor and its file."""
    return DataError(f"{tensor.file}: tensor {tensor.name}: {what}")


def check_shape(tensor: Tensor, fitting: list[tuple[int, ...]], module: nn.Linear) -> None:
    """Reject a tensor that has none of the shapes that fit its layer."""
    if tensor.shape not in fitting or module.in_features >= MAX_INPUTS:
        expected = " or ".join(str(list(shape)) for shape in fitting)
        layer = f"a layer of {module.in_features} inputs, {module.out_features} outputs"
        raise wrong(tensor, f"{list(tensor.shape)}, and {layer} has {expected}")


def check_present(found: dict[str, Tensor], needed: list[str]) -> None:
    """Reject a layer that lacks one of these tensors."""
    if lacking := [name for name in needed if name not in found]:
        raise wrong(next(iter(found.values())), f"the checkpoint lacks its {' and '.join(lacking)}")
