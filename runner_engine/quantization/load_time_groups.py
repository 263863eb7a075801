"""Base class of choices that quantize weights at load time into our own group-quantized layers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base import ConfigError
from runner_base.errors import check_min_value
from runner_engine.quantization.base import (
    DERIVED_LINEAR,
    OTHER_LINEAR,
    MatmulCosts,
    OwnLayers,
    QuantizedConfig,
)

if TYPE_CHECKING:
    import torch

BITS = (2, 3, 4, 5, 6, 8)


@dataclass
class CodedGroups:
    """A quantized weight, (code - zero point) * scale, with one zero point and scale per group."""

    codes: torch.Tensor  # uint8 [outputs, inputs]
    scales: torch.Tensor  # [outputs, groups], in float32 or in 16 bits
    # uint8 or the scales' format [outputs, groups], or [1, 1] where all are the same
    zeros: torch.Tensor


@dataclass
class LoadTimeGroupsConfig(QuantizedConfig):
    """Base config of group-quantized integer weights that are quantized at load time and stored
    bit-packed.
    """

    holders: ClassVar[tuple[str, ...]] = ("runner_engine.models.grouped_linear",)
    own_layers: ClassVar[OwnLayers | None] = OwnLayers.made_groups
    zero_point_bytes: ClassVar[int | None] = None  # of a group; None: as many as a scale has

    bits: int = 4
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError(
                f"must be one of {', '.join(map(str, BITS))}",
                key="quantization.bits",
                value=self.bits,
                code="unknown_choice",
            )
        check_min_value(8, "quantization.group_size", self.group_size)
        if self.group_size % 8:
            raise ConfigError(
                "must be a multiple of 8",
                key="quantization.group_size",
                value=self.group_size,
                code="bad_value",
            )

    @property
    def rounds_activations(self) -> bool:
        """Whether activations are rounded to int8 in addition to the weights."""
        return False

    def compute_weight_nbytes(self, num_outputs: int, num_weights: int, dtype_bytes: int) -> tuple[int, int]:
        """Return the bytes of the packed codes, and of all scales and zero points together."""
        zero_point = dtype_bytes if self.zero_point_bytes is None else self.zero_point_bytes
        return 4 * num_outputs * -(
            -num_weights // num_outputs * self.bits // 32
        ), num_weights // self.group_size * (dtype_bytes + zero_point)

    def supports_family(self, family: str, layer_by_layer: bool) -> bool:
        """Whether a model family uses nn.Linear itself, not a subclass or another class."""
        return family not in DERIVED_LINEAR | OTHER_LINEAR

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        """Return the matmul costs. A matmul dequantizes the weights to the dtype of the activations.

        The engine multiplies group-quantized weights on every processor.
        """
        return MatmulCosts(dtype_bytes, dtype_bytes in (2, 4))

    def build_load_arguments(self) -> dict[str, Any]:
        """Return an empty dictionary, because the runner itself quantizes each loaded weight."""
        return {}

    def find_unquantizable_reason(self, outputs: int, inputs: int, device: str) -> str:
        if not inputs % self.group_size:
            return ""
        fits = next((size for size in (128, 64, 32, 16, 8) if not inputs % size), None)
        fix = f"quantization.group_size={fits}" if fits else "another choice"
        return (
            f"has {inputs} inputs, which is not a multiple of quantization.group_size={self.group_size}. "
            f"Use {fix}, or quantization.skip for such layers"
        )

    def extract_stored_groups(self, weight: Any) -> CodedGroups | None:
        """Return the codes, scales and zero points of a weight that the quantization library has
        loaded.

        None for unsupported weights.
        """
        return None

    @abstractmethod
    def quantize_weight(self, weight: torch.Tensor) -> CodedGroups:
        """Quantize a weight [outputs, inputs] to the same bits as the quantization library does."""
