"""compressed-tensors' pack-quantized checkpoints: llm-compressor's W4A16 and W8A16.

The runner reads them itself (runner_engine/models/grouped_linear.py). `none` also loads them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import Int8ActivationsConfig, StoredTensorNames
from runner_engine.quantization.compressed_tensors import (
    CompressedTensorsConfig,
    build_unsupported_settings_note,
    select_settings,
)
from runner_engine.quantization.grouped import GroupSettings, parse_bits_per_weight, parse_group_size


@dataclass
class PackQuantizedConfig(Int8ActivationsConfig, CompressedTensorsConfig):
    """A compressed-tensors checkpoint with packed integer weights and unquantized activations
    (W4A16, W8A16).
    """

    name: ClassVar[str] = "pack_quantized"
    form: ClassVar[str] = "pack-quantized"
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight_packed",))

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the layer settings. Layer groups may have different numbers of bits."""
        weights = [one["weights"] for one in stored_config["config_groups"].values()]
        several = tuple(
            dict.fromkeys(parse_bits_per_weight(weight.get("num_bits"), "num_bits") for weight in weights)
        )
        return GroupSettings("packed", several, parse_group_size(weights[0].get("group_size")))

    @classmethod
    def matches_config(cls, stored_config: dict[str, Any]) -> bool:
        """Whether a quantization_config has this format and unquantized activations.

        Some checkpoints declare this format although activations are quantized.
        """
        if not super().matches_config(stored_config):
            return False
        listed = [one for one in stored_config["config_groups"].values() if isinstance(one, dict)]
        return not any(one.get("input_activations") or one.get("output_activations") for one in listed)

    @classmethod
    def find_weight_problem(cls, weight_settings: dict[str, Any]) -> Note | None:
        """Return a note if weights are not integers with one scale per group or output."""
        found = select_settings(weight_settings, type="int", strategy="group")
        is_read = found["type"] == "int" and found["strategy"] in ("group", "channel")
        return (
            None if is_read else build_unsupported_settings_note("weights", found, note("reads_int_groups"))
        )
