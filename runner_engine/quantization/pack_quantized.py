"""Checkpoints of compressed-tensors in its format pack-quantized: W4A16 and W8A16 of
llm-compressor.

The runner reads them itself (runner_engine/models/grouped.py). `none` also loads them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import StoredTensors, WithByteRows
from runner_engine.quantization.compressed import CompressedConfig, keys_of, unread
from runner_engine.quantization.grouped import GroupSettings, bits_of, group_of


@dataclass
class PackQuantizedConfig(WithByteRows, CompressedConfig):
    """A checkpoint of compressed-tensors whose weights alone are quantized, to packed integers
    (W4A16, W8A16)."""

    name: ClassVar[str] = "pack_quantized"
    form: ClassVar[str] = "pack-quantized"
    tensors: ClassVar[StoredTensors] = StoredTensors((".weight_packed",))

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """Groups of layers may have different bits."""
        weights = [one["weights"] for one in stored["config_groups"].values()]
        several = tuple(dict.fromkeys(bits_of(weight.get("num_bits"), "num_bits") for weight in weights))
        return GroupSettings("packed", several, group_of(weights[0].get("group_size")))

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Rows stay as they are: others are in this format by mistake."""
        if not super().is_own(stored):
            return False
        listed = [one for one in stored["config_groups"].values() if isinstance(one, dict)]
        return not any(one.get("input_activations") or one.get("output_activations") for one in listed)

    @classmethod
    def problem_of(cls, weights: dict[str, Any]) -> Note | None:
        """Weights are integers with a scale for each group or each output."""
        found = keys_of(weights, type="int", strategy="group")
        is_read = found["type"] == "int" and found["strategy"] in ("group", "channel")
        return None if is_read else unread("weights", found, note("reads_int_groups"))
