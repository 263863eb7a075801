"""Checkpoints of compressed-tensors in its format int-quantized: W8A8 of llm-compressor, and W8A16.

The runner reads them itself (models/int8_linear.py). `none` also loads them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.compressed import CompressedConfig, rows_of
from runner.quantization.grouped import GroupSettings


@dataclass
class IntQuantizedConfig(CompressedConfig):
    """A checkpoint of compressed-tensors whose weights are int8, and perhaps its rows (W8A8, W8A16)."""

    name: ClassVar[str] = "int_quantized"
    form: ClassVar[str] = "int-quantized"
    holders: ClassVar[tuple[str, ...]] = ("runner.models.grouped", "runner.models.int8_linear")
    packed_names: ClassVar[tuple[str, ...]] = (".weight",)

    @property
    def may_round_rows(self) -> bool:
        """Those of W8A8."""
        return True

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """All groups of layers quantize rows in the same way."""
        return GroupSettings("int8", (8,), -1, rows=rows_of(next(iter(stored["config_groups"].values()))))

    @classmethod
    def problem_of(cls, weights: dict[str, Any]) -> str:
        """Weights are symmetric int8 by output or as a whole."""
        kinds = weights.get("num_bits"), weights.get("type", "int"), weights.get("symmetric", True)
        strategy = weights.get("strategy")
        if (*kinds, strategy) in [(8, "int", True, one) for one in ("channel", "tensor")]:
            return ""
        return (
            "its weights are num_bits={} type={} symmetric={} strategy={}, and the runner reads symmetric int of "
            "8 bits by channel or tensor"
        ).format(*kinds, strategy)

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> str:
        """Rows are int8 by row as they come, or as a whole."""
        kinds = rows.get("num_bits"), rows.get("type", "int"), rows.get("dynamic"), rows.get("strategy")
        is_read = kinds == (8, "int", True, "token") and rows.get("symmetric", True) is True
        if (is_read or kinds == (8, "int", False, "tensor")) and not rows.get("scale_dtype"):
            return ""
        return (
            "its rows are num_bits={} type={} dynamic={} strategy={} symmetric={}, and the runner reads int of 8 bits, "
            "dynamic by token and symmetric, or static by tensor"
        ).format(*kinds, rows.get("symmetric", True))
