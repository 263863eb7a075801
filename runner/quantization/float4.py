"""Checkpoints of compressed-tensors whose weights are four-bit floats (e2m1): NVFP4 and MXFP4.

The runner reads them itself (models/float4_linear.py). `none` also loads them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.grouped import GroupedConfig, GroupSettings, beyond_weights


@dataclass
class Float4Config(GroupedConfig):
    """What both have in common."""

    method: ClassVar[str] = "compressed-tensors"
    holders: ClassVar[tuple[str, ...]] = ("runner.models.grouped", "runner.models.float4_linear")
    packed_names: ClassVar[tuple[str, ...]] = (".weight_packed",)
    form: ClassVar[str] = ""  # `format` in config.json
    group: ClassVar[int] = 0  # inputs that share a scale

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Whether each group of layers is in this format."""
        groups = stored.get("config_groups")
        if stored.get("quant_method") != cls.method or not isinstance(groups, dict) or not groups:
            return False
        listed = [one for one in groups.values() if isinstance(one, dict)]
        formats = {str(one.get("format") or stored.get("format")) for one in listed}
        return formats == {cls.form} and len(listed) == len(groups)

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """All groups of layers quantize rows in the same way."""
        group = next(iter(stored["config_groups"].values()))
        return GroupSettings(cls.name, (4,), cls.group, rows="local" if group.get("input_activations") else "")

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> str:
        """Weights have the groups of the format; rows are as they are, or what the format has for them."""
        if problem := beyond_weights(stored):
            return problem
        groups = list(stored["config_groups"].values())
        for one in groups:
            if problem := cls._problem(one):
                return problem
        if len({bool(one.get("input_activations")) for one in groups}) > 1:
            return "its groups of layers quantize rows in different ways, and the runner reads one for all"
        return ""

    @classmethod
    def _problem(cls, group: dict[str, Any]) -> str:
        weights, rows = group.get("weights"), group.get("input_activations")
        if not isinstance(weights, dict):
            return "each of its config_groups needs `weights`"
        kinds = weights.get("num_bits"), weights.get("type"), weights.get("symmetric", True), weights.get("group_size")
        if kinds != (4, "float", True, cls.group):
            return (
                "its weights are num_bits={} type={} symmetric={} group_size={}, and the runner reads symmetric float "
                "of 4 bits in groups of {}"
            ).format(*kinds, cls.group)
        if group.get("output_activations"):
            return "its outputs are quantized, too, which the runner does not read"
        return cls._problem_of_rows(rows) if rows else ""

    @classmethod
    def _problem_of_rows(cls, rows: object) -> str:  # noqa: ARG003
        return "its rows are quantized, too, and the runner reads weights alone in this format (W4A16)"


@dataclass
class Nvfp4Config(Float4Config):
    """A checkpoint of compressed-tensors in NVFP4: groups of 16 with scales in float8, and one scale for all."""

    name: ClassVar[str] = "nvfp4_pack_quantized"
    form: ClassVar[str] = "nvfp4-pack-quantized"
    group: ClassVar[int] = 16

    @classmethod
    def _problem_of_rows(cls, rows: object) -> str:
        if not isinstance(rows, dict):
            return f"input_activations={rows!r}: a JSON object expected"
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
