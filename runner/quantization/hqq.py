"""HQQ: integers of 2 to 8 bits in groups, with zero points that half-quadratic optimisation finds, made while loading.

The method is that of the package hqq (Badri and Shaji: Half-Quadratic Quantization of Large Machine Learning Models,
2023), which also names the constants. It needs no data. The package itself is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from runner.quantization.made_groups import CodedGroups, MadeGroupsConfig

if TYPE_CHECKING:
    import torch

ROUNDS = 20  # at most: the first that does not lessen the mean error is the last
NORM = 0.7  # of the error that is minimised: below 1, so that outliers count less
BETA = 10.0
SMALLEST_RANGE, LARGEST_INVERSE = 1e-4, 2e4  # of a group: keeps its scale within 16 bits


@dataclass
class HqqConfig(MadeGroupsConfig):
    """HQQ's groups along inputs, with scales and zero points in model.dtype."""

    name: ClassVar[str] = "hqq"

    @property
    def load_bytes_per_number(self) -> int:
        """Return the bytes of the matrices in float32 that the optimisation needs at once."""
        return 24

    def groups_of(self, weight: torch.Tensor) -> CodedGroups:
        """Find the zero points, as hqq's default solver does for groups along inputs."""
        import torch

        outputs, top = weight.shape[0], 2**self.bits - 1
        with torch.no_grad():
            plain = weight.float().reshape(-1, self.group_size)
            low, high = plain.amin(1, keepdim=True), plain.amax(1, keepdim=True)
            inverse = torch.where(high - low <= SMALLEST_RANGE, 1.0, top / (high - low)).clamp(max=LARGEST_INVERSE)
            zeros = -low * inverse
            least = float("inf")
            for _ in range(ROUNDS):
                codes = (plain * inverse).add_(zeros).round_().clamp_(0, top)
                error = plain - (codes - zeros).div_(inverse)
                size = float(error.abs().mean())
                shrunk = error.abs()
                shrunk.sub_(shrunk.pow(NORM - 1).mul_(1 / BETA)).clamp_min_(0).mul_(error.sign_())
                zeros = codes.sub_((plain - shrunk).mul_(inverse)).mean(1, keepdim=True)
                if not size < least:
                    break
                least = size
            codes = (plain * inverse).add_(zeros).round_().clamp_(0, top)
            numbers = (one.reshape(outputs, -1).to(weight.dtype) for one in (1 / inverse, zeros))
            return CodedGroups(codes.to(torch.uint8).reshape(weight.shape), *numbers)
