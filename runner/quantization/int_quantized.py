"""Checkpoints of compressed-tensors in its format int-quantized: W8A8 of llm-compressor, and W8A16.

The runner reads them itself (models/int8_linear.py). `none` also loads them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.grouped import GroupedConfig, GroupSettings, beyond_weights

FORMAT = "int-quantized"


@dataclass
class IntQuantizedConfig(GroupedConfig):
    """A checkpoint of compressed-tensors whose weights are int8, and perhaps its rows (W8A8, W8A16)."""

    name: ClassVar[str] = "int_quantized"
    method: ClassVar[str] = "compressed-tensors"
    holders: ClassVar[tuple[str, ...]] = ("runner.models.grouped", "runner.models.int8_linear")
    packed_names: ClassVar[tuple[str, ...]] = (".weight",)
    may_round_rows: ClassVar[bool] = True

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """All groups of layers quantize rows in the same way."""
        return GroupSettings("int8", (8,), -1, rows=rows_of(next(iter(stored["config_groups"].values()))))

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Whether each group of layers is in the format int-quantized."""
        groups = stored.get("config_groups")
        if stored.get("quant_method") != cls.method or not isinstance(groups, dict) or not groups:
            return False
        formats = {
            str((one.get("format") if isinstance(one, dict) else None) or stored.get("format"))
            for one in groups.values()
        }
        return formats == {FORMAT}

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> str:
        """Weights are symmetric int8 by output or as a whole; rows are int8 by row as they come, or as a whole."""
        if problem := beyond_weights(stored):
            return problem
        groups = list(stored["config_groups"].values())
        for one in groups:
            if problem := _problem(one):
                return problem
        if len({rows_of(one) for one in groups}) > 1:
            return "its groups of layers quantize rows in different ways, and the runner reads one for all"
        return ""


def rows_of(group: dict[str, Any]) -> str:
    """Return how a group's rows are quantized: dynamic, static, or not at all (empty)."""
    rows = group.get("input_activations")
    return "" if not rows else "dynamic" if rows.get("dynamic") is True else "static"


def _problem(group: object) -> str:
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(weights, dict):
        return "each of its config_groups needs `weights`"
    kinds = weights.get("num_bits"), weights.get("type", "int"), weights.get("symmetric", True), weights.get("strategy")
    if kinds not in [(8, "int", True, one) for one in ("channel", "tensor")]:
        return (
            "its weights are num_bits={} type={} symmetric={} strategy={}, and the runner reads symmetric int of "
            "8 bits by channel or tensor"
        ).format(*kinds)
    if group.get("output_activations"):
        return "its outputs are quantized, too, which the runner does not read"
    rows = group.get("input_activations")
    if not rows:
        return ""
    if not isinstance(rows, dict):
        return f"input_activations={rows!r}: a JSON object expected"
    kinds = rows.get("num_bits"), rows.get("type", "int"), rows.get("dynamic"), rows.get("strategy")
    is_read = kinds == (8, "int", True, "token") and rows.get("symmetric", True) is True
    if not (is_read or kinds == (8, "int", False, "tensor")) or rows.get("scale_dtype"):
        return (
            "its rows are num_bits={} type={} dynamic={} strategy={} symmetric={}, and the runner reads int of 8 bits, "
            "dynamic by token and symmetric, or static by tensor"
        ).format(*kinds, rows.get("symmetric", True))
    return ""
