"""What choices have in common that make integers in groups of an ordinary weight, for layers of the
runner's own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base import ConfigError
from runner_base.errors import check_least
from runner_engine.quantization.base import DERIVED_LINEAR, OTHER_LINEAR, OwnLayers, Products, Quantized

if TYPE_CHECKING:
    import torch

BITS = (2, 3, 4, 5, 6, 8)


@dataclass
class CodedGroups:
    """A weight as integers without a sign: (code - zero point) * scale of its group."""

    codes: torch.Tensor  # uint8 [outputs, inputs]
    scales: torch.Tensor  # [outputs, groups], in float32 or in 16 bits
    # uint8 or the scales' format [outputs, groups], or [1, 1] where all are the same
    zeros: torch.Tensor


@dataclass
class MadeGroupsConfig(Quantized):
    """Integers in groups of inputs, made while loading and held in as many bits
    (models/made_groups.py)."""

    holders: ClassVar[tuple[str, ...]] = ("runner_engine.models.grouped",)
    own_layers: ClassVar[OwnLayers | None] = OwnLayers.made_groups
    zero_point_bytes: ClassVar[int | None] = None  # of a group; None: as many as a scale has

    bits: int = 4
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError(
                f"give one of {', '.join(map(str, BITS))}",
                key="quantization.bits",
                value=self.bits,
                code="unknown_choice",
            )
        check_least(8, "quantization.group_size", self.group_size)
        if self.group_size % 8:
            raise ConfigError(
                "a multiple of 8 expected",
                key="quantization.group_size",
                value=self.group_size,
                code="bad_value",
            )

    @property
    def rounds_rows(self) -> bool:
        """Whether the rows that the weights are multiplied by are rounded to int8, too."""
        return False

    def price(self, rows: int, numbers: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of the codes, and of a scale and perhaps a zero point for each group."""
        zero_point = dtype_bytes if self.zero_point_bytes is None else self.zero_point_bytes
        return 4 * rows * -(-numbers // rows * self.bits // 32), numbers // self.group_size * (
            dtype_bytes + zero_point
        )

    def reaches(self, family: str, layer_by_layer: bool) -> bool:
        """Whether a family's linear layers are torch's own class."""
        return family not in DERIVED_LINEAR | OTHER_LINEAR

    def products(self, dtype_bytes: int) -> Products:
        """The copy is in the dtype of the activations; the engine multiplies groups on every
        processor."""
        return Products(dtype_bytes, dtype_bytes in (2, 4))

    def load_arguments(self) -> dict[str, Any]:
        """Return nothing: the runner quantizes the weights as transformers reads them."""
        return {}

    def unfit(self, outputs: int, inputs: int, device: str) -> str:
        """Say which inputs are not whole groups."""
        if not inputs % self.group_size:
            return ""
        fits = next((size for size in (128, 64, 32, 16, 8) if not inputs % size), None)
        fix = f"quantization.group_size={fits}" if fits else "another choice"
        return (
            f"has {inputs} inputs, which are not whole groups of quantization.group_size={self.group_size}: use {fix}, "
            "or quantization.skip for such layers"
        )

    def stored_groups_of(self, weight: Any) -> CodedGroups | None:
        """Return what a weight holds that the library has loaded; None if it is another kind of
        weight."""
        return None

    @abstractmethod
    def groups_of(self, weight: torch.Tensor) -> CodedGroups:
        """Quantize a weight [outputs, inputs], bit for bit as the library does."""
