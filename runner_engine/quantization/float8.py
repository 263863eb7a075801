"""Checkpoints with float8 (e4m3) weights by DeepSeek, compressed-tensors (float-quantized) or FBGEMM.

The runner reads them itself (runner_engine/models/layouts/float8.py). `none` also loads them as
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
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings

MAX_BLOCK = 2**20


@dataclass
class Float8Config(GroupedConfig):
    """Float8 weights with one scale per block, as in DeepSeek's and Qwen's FP8 models."""

    name: ClassVar[str] = "fp8"
    method: ClassVar[str] = "fp8"
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight",), ("_proj_scale_inv",))

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the layer settings. Activations stay unquantized, like in transformers on a CPU."""
        block = _read_block_size(stored_config)
        outputs, group = (-1, -1) if block is None else block
        return GroupSettings("float8_blocks", (8,), group, outputs=outputs)

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        block = _read_block_size(stored_config)
        if block is not None and (not block or not _are_valid_sizes(block, 2)):
            return note("bad_block_size", value=block, most=MAX_BLOCK)
        if stored_config.get("expert_dtype", "fp8") != "fp8":
            return note(
                "setting_not_read", key="expert_dtype", value=stored_config["expert_dtype"], known="fp8"
            )
        return None


@dataclass
class FbgemmFp8Config(GroupedConfig):
    """Float8 weights with one scale per output, as in Llama 3.1 405B's FP8 model."""

    name: ClassVar[str] = "fbgemm_fp8"
    method: ClassVar[str] = "fbgemm_fp8"
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight",), ("_proj_scale",))

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:  # noqa: ARG003
        """Return the layer settings. Activations stay unquantized, because only FBGEMM's GPU kernels
        round them.
        """
        return GroupSettings("float8", (8,), -1)

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """Return None, because FBGEMM has a single variant, which is supported."""
        return None


@dataclass
class FloatQuantizedConfig(CompressedTensorsConfig):
    """A compressed-tensors checkpoint with float8 weights and optionally float8 activations
    (llm-compressor FP8).
    """

    name: ClassVar[str] = "float_quantized"
    form: ClassVar[str] = "float-quantized"
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".weight",))

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the layer settings, which are the same for all layer groups."""
        group = next(iter(stored_config["config_groups"].values()))
        outputs, inputs = _read_scale_block_shape(group["weights"])
        rows, row_group = read_activation_quantization_mode(group), -1
        if rows and group["input_activations"]["strategy"] == "group":
            row_group = group["input_activations"]["group_size"]
        return GroupSettings("float8", (8,), inputs, rows=rows, row_group=row_group, outputs=outputs)

    @classmethod
    def find_weight_problem(cls, weight_settings: dict[str, Any]) -> Note | None:
        """Return a note if the weights are not e4m3, or have an unsupported group or block size."""
        found = select_settings(weight_settings, num_bits=None, type=None, symmetric=True, strategy=None)
        *kinds, strategy = found.values()
        group, block = weight_settings.get("group_size"), weight_settings.get("block_structure")
        sizes = {"channel": [], "tensor": [], "group": [group], "block": block}
        if kinds != [8, "float", True] or not isinstance(strategy, str) or strategy not in sizes:
            return build_unsupported_settings_note("weights", found, note("reads_float8_weights"))
        is_read = _are_valid_sizes(sizes[strategy], 2 if strategy == "block" else 1)
        return None if is_read else note("bad_group_or_block", group=group, block=block)

    @classmethod
    def find_activation_problem(cls, activation_settings: dict[str, Any]) -> Note | None:
        """Return a note if activations are not e4m3, either dynamic per token or group, or static
        per tensor.
        """
        found = select_settings(
            activation_settings, num_bits=None, type=None, dynamic=None, strategy=None, group_size=None
        )
        *kinds, group = found.values()
        known = [[8, "float", True, "token"], [8, "float", True, "group"], [8, "float", False, "tensor"]]
        is_read = (
            kinds in known
            and activation_settings.get("symmetric", True) is True
            and not activation_settings.get("scale_dtype")
        )
        if is_read and (kinds[3] != "group" or _are_valid_sizes([group], 1)):
            return None
        return build_unsupported_settings_note("activations", found, note("reads_float8_rows"))

    @classmethod
    def find_combination_problem(cls, layer_groups: list[dict[str, Any]]) -> Note | None:
        """Return a note if layer groups have different settings, which is unsupported."""
        if any({**group, "targets": 0} != {**layer_groups[0], "targets": 0} for group in layer_groups):
            return note("groups_differ")
        return None


def _read_block_size(stored_config: dict[str, Any]) -> Any:
    return stored_config.get("weight_block_size", [128, 128])


def _read_scale_block_shape(weight_settings: dict[str, Any]) -> tuple[int, int]:
    """Return how many outputs and how many inputs share a scale. -1 stands for all."""
    strategy = weight_settings["strategy"]
    if strategy == "block":
        outputs, inputs = weight_settings["block_structure"]
        return outputs, inputs
    if strategy == "group":
        return 1, weight_settings["group_size"]
    return (1 if strategy == "channel" else -1), -1


def _are_valid_sizes(sizes: Any, count: int) -> bool:
    if not isinstance(sizes, list):
        return False
    return not sizes or (
        len(sizes) == count and all(type(value) is int and 0 < value <= MAX_BLOCK for value in sizes)
    )
