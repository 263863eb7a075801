"""quantization=absmax: integers around zero, in groups of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runner_engine.quantization.load_time_groups import CodedGroups, LoadTimeGroupsConfig

if TYPE_CHECKING:
    import torch


@dataclass
class AbsmaxConfig(LoadTimeGroupsConfig):
    """The largest number of a group decides its scale."""

    name: ClassVar[str] = "absmax"
    zero_point_bytes: ClassVar[int | None] = 0  # the same for all groups

    def quantize_weight(self, weight: torch.Tensor) -> CodedGroups:
        """Round to the nearest code."""
        import torch

        middle = 2 ** (self.bits - 1)
        with torch.no_grad():
            groups = weight.float().reshape(-1, self.group_size)
            scales = (groups.abs().amax(1, keepdim=True) / (middle - 1)).clamp(min=1e-4).to(weight.dtype)
            codes = (groups / scales.float()).round().add(middle).clamp(0, 2 * middle - 1).to(torch.uint8)
            zero = torch.full((1, 1), middle, dtype=torch.uint8)
            return CodedGroups(codes.reshape(weight.shape), scales.reshape(weight.shape[0], -1), zero)
