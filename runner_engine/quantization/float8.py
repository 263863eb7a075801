"""Checkpoints of float8 (e4m3) weights: DeepSeek's blocks, compressed-tensors' float-quantized,
FBGEMM's rows.

The runner reads them itself (runner_engine/models/layouts/float8.py). `none` also loads them as
they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner_base.notes import Note, note
from runner_engine.quantization.base import StoredTensors
from runner_engine.quantization.compressed import CompressedConfig, keys_of, rows_of, unread
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings

MAX_BLOCK = 2**20


@dataclass
class Float8Config(GroupedConfig):
    """A checkpoint of float8 weights with a scale for each block of them, as DeepSeek's and Qwen's
    FP8 models."""

    name: ClassVar[str] = "fp8"
    method: ClassVar[str] = "fp8"
    tensors: ClassVar[StoredTensors] = StoredTensors((".weight",), ("_proj_scale_inv",))

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """Rows stay as they are, as transformers leaves them on a CPU."""
        block = _block(stored)
        outputs, group = (-1, -1) if block is None else block
        return GroupSettings("float8_blocks", (8,), group, outputs=outputs)

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:
        block = _block(stored)
        if block is not None and (not block or not _are_sizes(block, 2)):
            return note("bad_block_size", value=block, most=MAX_BLOCK)
        if stored.get("expert_dtype", "fp8") != "fp8":
            return note("setting_not_read", key="expert_dtype", value=stored["expert_dtype"], known="fp8")
        return None


@dataclass
class FbgemmFp8Config(GroupedConfig):
    """A checkpoint of float8 weights with a scale for each output, as Llama 3.1 405B's FP8
    model."""

    name: ClassVar[str] = "fbgemm_fp8"
    method: ClassVar[str] = "fbgemm_fp8"
    tensors: ClassVar[StoredTensors] = StoredTensors((".weight",), ("_proj_scale",))

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:  # noqa: ARG003
        """Rows stay as they are: what rounds them is a program for GPUs."""
        return GroupSettings("float8", (8,), -1)

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> Note | None:  # noqa: ARG003
        """There is one variant."""
        return None


@dataclass
class FloatQuantizedConfig(CompressedConfig):
    """A checkpoint of compressed-tensors whose weights are float8, and perhaps its rows (FP8 of
    llm-compressor)."""

    name: ClassVar[str] = "float_quantized"
    form: ClassVar[str] = "float-quantized"
    tensors: ClassVar[StoredTensors] = StoredTensors((".weight",))

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """All groups of layers have the same settings."""
        group = next(iter(stored["config_groups"].values()))
        outputs, inputs = _shared(group["weights"])
        rows, row_group = rows_of(group), -1
        if rows and group["input_activations"]["strategy"] == "group":
            row_group = group["input_activations"]["group_size"]
        return GroupSettings("float8", (8,), inputs, rows=rows, row_group=row_group, outputs=outputs)

    @classmethod
    def problem_of(cls, weights: dict[str, Any]) -> Note | None:
        """Weights are e4m3."""
        found = keys_of(weights, num_bits=None, type=None, symmetric=True, strategy=None)
        *kinds, strategy = found.values()
        group, block = weights.get("group_size"), weights.get("block_structure")
        sizes = {"channel": [], "tensor": [], "group": [group], "block": block}
        if kinds != [8, "float", True] or not isinstance(strategy, str) or strategy not in sizes:
            return unread("weights", found, note("reads_float8_weights"))
        is_read = _are_sizes(sizes[strategy], 2 if strategy == "block" else 1)
        return None if is_read else note("bad_group_or_block", group=group, block=block)

    @classmethod
    def problem_of_rows(cls, rows: dict[str, Any]) -> Note | None:
        """Rows are e4m3 by row or group as they come, or as a whole."""
        found = keys_of(rows, num_bits=None, type=None, dynamic=None, strategy=None, group_size=None)
        *kinds, group = found.values()
        known = [[8, "float", True, "token"], [8, "float", True, "group"], [8, "float", False, "tensor"]]
        is_read = kinds in known and rows.get("symmetric", True) is True and not rows.get("scale_dtype")
        if is_read and (kinds[3] != "group" or _are_sizes([group], 1)):
            return None
        return unread("rows", found, note("reads_float8_rows"))

    @classmethod
    def problem_of_several(cls, groups: list[dict[str, Any]]) -> Note | None:
        """Scales belong to outputs, groups or blocks of the same size in all layers."""
        if any({**group, "targets": 0} != {**groups[0], "targets": 0} for group in groups):
            return note("groups_differ")
        return None


def _block(stored: dict[str, Any]) -> Any:
    return stored.get("weight_block_size", [128, 128])


def _shared(weights: dict[str, Any]) -> tuple[int, int]:
    """Return how many outputs and inputs share a scale; -1: all."""
    strategy = weights["strategy"]
    if strategy == "block":
        outputs, inputs = weights["block_structure"]
        return outputs, inputs
    if strategy == "group":
        return 1, weights["group_size"]
    return (1 if strategy == "channel" else -1), -1


def _are_sizes(values: Any, count: int) -> bool:
    """Whether these are whole numbers above 0, as many as expected, or none where none belong."""
    if not isinstance(values, list):
        return False
    return not values or (
        len(values) == count and all(type(value) is int and 0 < value <= MAX_BLOCK for value in values)
    )
