"""Checkpoints of compressed-tensors in its format int-quantized: W8A8 of llm-compressor, and W8A16.

The runner reads them itself (runner_engine/models/layouts/int8.py). `none` also loads them as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import Products, StoredTensors
from runner_engine.quantization.compressed import CompressedConfig, keys_of, rows_of, unread
from runner_engine.quantization.grouped import GroupSettings


@dataclass
class IntQuantizedConfig(CompressedConfig):
    """A checkpoint of compressed-tensors whose weights are int8, and perhaps its rows (W8A8,
    W8A16)."""

    name: ClassVar[str] = "int_quantized"
    form: ClassVar[str] = "int-quantized"
    tensors: ClassVar[StoredTensors] = StoredTensors((".weight",))

    def products(self, dtype_bytes: int) -> Products:
        """Rows of W8A8 are rounded."""
        return replace(super().products(dtype_bytes), may_round_rows=True)

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """All groups of layers quantize rows in the same way."""
        return GroupSettings("int8", (8,), -1, rows=rows_of(next(iter(stored["config_groups"].values()))))

    @classmethod
    def problem_of(cls, weights: dict[str, Any]) -> Note | None:
        """Weights are symmetric int8 by output or as a whole."""
        found = keys_of(weights, num_bits=None, type="int", symmetric=True, strategy=None)
        if list(found.values()) in [[8, "int", True, one] for one in ("channel", "tensor")]:
            return None
        return unread("weights", found, note("reads_int8_weights"))

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> Note | None:
        """Rows are int8 by row as they come, or as a whole."""
        found = keys_of(rows, num_bits=None, type="int", dynamic=None, strategy=None, symmetric=True)
        *kinds, symmetric = found.values()
        is_read = kinds == [8, "int", True, "token"] and symmetric is True
        if (is_read or kinds == [8, "int", False, "tensor"]) and not rows.get("scale_dtype"):
            return None
        return unread("rows", found, note("reads_int8_rows"))
