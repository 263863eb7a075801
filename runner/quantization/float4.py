"""Checkpoints of compressed-tensors whose weights are four-bit floats (e2m1): NVFP4 and MXFP4.

The runner reads them itself (models/float4_linear.py). `none` also loads them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.compressed import CompressedConfig, rows_of
from runner.quantization.grouped import GroupSettings


@dataclass
class Float4Config(CompressedConfig):
    """What both have in common."""

    holders: ClassVar[tuple[str, ...]] = ("runner.models.grouped", "runner.models.float4_linear")
    packed_names: ClassVar[tuple[str, ...]] = (".weight_packed",)
    group: ClassVar[int] = 0  # inputs that share a scale

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """All groups of layers quantize rows in the same way."""
        return GroupSettings(cls.name, (4,), cls.group, rows=rows_of(next(iter(stored["config_groups"].values()))))

    @classmethod
    def problem_of(cls, weights: dict[str, Any]) -> str:
        """Weights have the groups of the format."""
        kinds = weights.get("num_bits"), weights.get("type"), weights.get("symmetric", True), weights.get("group_size")
        if kinds == (4, "float", True, cls.group):
            return ""
        return (
            "its weights are num_bits={} type={} symmetric={} group_size={}, and the runner reads symmetric float "
            "of 4 bits in groups of {}"
        ).format(*kinds, cls.group)

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> str:  # noqa: ARG003
        """Rows stay as they are."""
        return "its rows are quantized, too, and the runner reads weights alone in this format (W4A16)"


@dataclass
class Nvfp4Config(Float4Config):
    """A checkpoint of compressed-tensors in NVFP4: groups of 16 with scales in float8, and one scale for all."""

    name: ClassVar[str] = "nvfp4_pack_quantized"
    form: ClassVar[str] = "nvfp4-pack-quantized"
    group: ClassVar[int] = 16

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> str:
        """Rows are rounded to NVFP4, too."""
        kinds = rows.get("num_bits"), rows.get("type"), rows.get("dynamic"), rows.get("group_size")
        if kinds == (4, "float", "local", cls.group) and rows.get("symmetric", True) is True:
            return ""
        return (
            "its rows are num_bits={} type={} dynamic={} group_size={}, and the runner reads float of 4 bits, local, "
            "in groups of 16"
        ).format(*kinds)


@dataclass
class Mxfp4Config(Float4Config):
    """A checkpoint of compressed-tensors in MXFP4: groups of 32 whose scales are powers of two."""

    name: ClassVar[str] = "mxfp4_pack_quantized"
    form: ClassVar[str] = "mxfp4-pack-quantized"
    group: ClassVar[int] = 32
