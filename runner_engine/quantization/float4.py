"""compressed-tensors checkpoints with four-bit float weights (e2m1): NVFP4 and MXFP4.

The runner reads them itself (runner_engine/models/layouts/float4.py). `none` also loads them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import StoredTensorNames
from runner_engine.quantization.compressed_tensors import (
    CompressedTensorsConfig,
    build_unsupported_settings_note,
    read_activation_quantization_mode,
    select_settings,
)
from runner_engine.quantization.grouped import GroupSettings

FUSED = "mxfp4"  # quant_method of gpt-oss's own checkpoints


@dataclass
class Float4Config(CompressedTensorsConfig):
    """Base class of the four-bit float formats NVFP4 and MXFP4."""

    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight_packed",))
    group: ClassVar[int] = 0  # inputs that share a scale

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the settings of a layer group. Activations have the same settings in all groups."""
        return GroupSettings(
            cls.name,
            (4,),
            cls.group,
            rows=read_activation_quantization_mode(next(iter(stored_config["config_groups"].values()))),
        )

    @classmethod
    def find_weight_problem(cls, weight_settings: dict[str, Any]) -> Note | None:
        """Return a note if the weight settings differ from those of the format, otherwise None."""
        found = select_settings(weight_settings, num_bits=None, type=None, symmetric=True, group_size=None)
        if tuple(found.values()) == (4, "float", True, cls.group):
            return None
        return build_unsupported_settings_note("weights", found, note("reads_float4_groups", group=cls.group))

    @classmethod
    def find_activation_problem(cls, activation_settings: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """Return a note, because this format does not support quantized activations."""
        return note("rows_quantized_too")


@dataclass
class Nvfp4Config(Float4Config):
    """A compressed-tensors NVFP4 checkpoint, with one float8 scale per 16 weights and one scale per layer."""

    name: ClassVar[str] = "nvfp4_pack_quantized"
    form: ClassVar[str] = "nvfp4-pack-quantized"
    group: ClassVar[int] = 16

    @classmethod
    def find_activation_problem(cls, activation_settings: dict[str, Any]) -> Note | None:
        """Return a note if activations are quantized to any format but NVFP4, otherwise None."""
        found = select_settings(activation_settings, num_bits=None, type=None, dynamic=None, group_size=None)
        if (
            tuple(found.values()) == (4, "float", "local", cls.group)
            and activation_settings.get("symmetric", True) is True
        ):
            return None
        return build_unsupported_settings_note("activations", found, note("reads_local_float4"))


@dataclass
class Mxfp4Config(Float4Config):
    """An MXFP4 checkpoint of compressed-tensors or gpt-oss, with one power of two as scale per 32 weights."""

    name: ClassVar[str] = "mxfp4_pack_quantized"
    form: ClassVar[str] = "mxfp4-pack-quantized"
    group: ClassVar[int] = 32
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight_packed", "_blocks"))

    @classmethod
    def matches_config(cls, stored_config: dict[str, Any]) -> bool:
        """Whether a quantization_config describes MXFP4 by compressed-tensors or by gpt-oss."""
        return stored_config.get("quant_method") == FUSED or super().matches_config(stored_config)

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        """Return a note on an unsupported compressed-tensors variant, otherwise None. gpt-oss has
        only one variant.
        """
        return (
            None
            if stored_config.get("quant_method") == FUSED
            else super().find_unsupported_variant(stored_config)
        )

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return how a layer's tensors are stored. gpt-oss has one tensor for all experts of a layer."""
        is_fused = stored_config.get("quant_method") == FUSED
        return (
            GroupSettings("mxfp4_fused", (4,), cls.group)
            if is_fused
            else super().parse_group_settings(stored_config)
        )
