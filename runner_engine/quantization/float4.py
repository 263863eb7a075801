"""Checkpoints of compressed-tensors whose weights are four-bit floats (e2m1): NVFP4 and MXFP4.

The runner reads them itself (runner_engine/models/layouts/float4.py). `none` also loads them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import StoredTensors
from runner_engine.quantization.compressed import CompressedConfig, keys_of, rows_of, unread
from runner_engine.quantization.grouped import GroupSettings

FUSED = "mxfp4"  # quant_method of gpt-oss's own checkpoints


@dataclass
class Float4Config(CompressedConfig):
    """What both have in common."""

    tensors: ClassVar[StoredTensors] = StoredTensors((".weight_packed",))
    group: ClassVar[int] = 0  # inputs that share a scale

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """All groups of layers quantize rows in the same way."""
        return GroupSettings(
            cls.name, (4,), cls.group, rows=rows_of(next(iter(stored["config_groups"].values())))
        )

    @classmethod
    def problem_of(cls, weights: dict[str, Any]) -> Note | None:
        """Weights have the groups of the format."""
        found = keys_of(weights, num_bits=None, type=None, symmetric=True, group_size=None)
        if tuple(found.values()) == (4, "float", True, cls.group):
            return None
        return unread("weights", found, note("reads_float4_groups", group=cls.group))

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """Rows stay as they are."""
        return note("rows_quantized_too")


@dataclass
class Nvfp4Config(Float4Config):
    """A checkpoint of compressed-tensors in NVFP4: groups of 16 with scales in float8, and one
    scale for all."""

    name: ClassVar[str] = "nvfp4_pack_quantized"
    form: ClassVar[str] = "nvfp4-pack-quantized"
    group: ClassVar[int] = 16

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> Note | None:
        """Rows are rounded to NVFP4, too."""
        found = keys_of(rows, num_bits=None, type=None, dynamic=None, group_size=None)
        if tuple(found.values()) == (4, "float", "local", cls.group) and rows.get("symmetric", True) is True:
            return None
        return unread("rows", found, note("reads_local_float4"))


@dataclass
class Mxfp4Config(Float4Config):
    """A checkpoint in MXFP4, of compressed-tensors or gpt-oss's own: groups of 32 whose scales are
    powers of two."""

    name: ClassVar[str] = "mxfp4_pack_quantized"
    form: ClassVar[str] = "mxfp4-pack-quantized"
    group: ClassVar[int] = 32
    tensors: ClassVar[StoredTensors] = StoredTensors((".weight_packed", "_blocks"))

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Also that of gpt-oss, whose experts alone are quantized."""
        return stored.get("quant_method") == FUSED or super().is_own(stored)

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        """gpt-oss has one variant."""
        return None if stored.get("quant_method") == FUSED else super().refusal_of(stored)

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """Codes of all experts may be in one tensor."""
        is_fused = stored.get("quant_method") == FUSED
        return GroupSettings("mxfp4_fused", (4,), cls.group) if is_fused else super().settings_of(stored)
