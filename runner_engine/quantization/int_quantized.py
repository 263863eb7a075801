"""compressed-tensors' int-quantized checkpoints: W8A8 and W8A16 of llm-compressor.

The runner reads them itself (runner_engine/models/layouts/int8.py). `none` also loads them as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import MatmulCosts, StoredTensorNames
from runner_engine.quantization.compressed_tensors import (
    CompressedTensorsConfig,
    build_unsupported_settings_note,
    read_activation_quantization_mode,
    select_settings,
)
from runner_engine.quantization.grouped import GroupSettings


@dataclass
class IntQuantizedConfig(CompressedTensorsConfig):
    """A compressed-tensors checkpoint with int8 weights and optionally int8 activations (W8A8, W8A16)."""

    name: ClassVar[str] = "int_quantized"
    form: ClassVar[str] = "int-quantized"
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight",))

    def describe_matmul_costs(self, dtype_bytes: int) -> MatmulCosts:
        return replace(super().describe_matmul_costs(dtype_bytes), may_round_rows=True)

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the layer settings. All layer groups have the same activation settings."""
        return GroupSettings(
            "int8",
            (8,),
            -1,
            rows=read_activation_quantization_mode(next(iter(stored_config["config_groups"].values()))),
        )

    @classmethod
    def find_weight_problem(cls, weight_settings: dict[str, Any]) -> Note | None:
        """Return a note if weights are not symmetric int8 with one scale per output or tensor."""
        found = select_settings(weight_settings, num_bits=None, type="int", symmetric=True, strategy=None)
        if list(found.values()) in [[8, "int", True, one] for one in ("channel", "tensor")]:
            return None
        return build_unsupported_settings_note("weights", found, note("reads_int8_weights"))

    @classmethod
    def find_activation_problem(cls, activation_settings: dict[str, Any]) -> Note | None:
        """Return a note if activations are not int8, either dynamic per token or static per tensor."""
        found = select_settings(
            activation_settings, num_bits=None, type="int", dynamic=None, strategy=None, symmetric=True
        )
        *kinds, symmetric = found.values()
        is_read = kinds == [8, "int", True, "token"] and symmetric is True
        if (is_read or kinds == [8, "int", False, "tensor"]) and not activation_settings.get("scale_dtype"):
            return None
        return build_unsupported_settings_note("activations", found, note("reads_int8_rows"))
