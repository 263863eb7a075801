"""Checkpoints of float8 (e4m3) weights: DeepSeek's blocks, compressed-tensors' float-quantized, FBGEMM's rows.

The runner reads them itself (models/float8_linear.py). `none` also loads them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from runner.quantization.grouped import GroupedConfig, GroupSettings, beyond_weights
from runner.quantization.int_quantized import rows_of

FORMATS = ("float-quantized", "naive-quantized")
MAX_BLOCK = 2**20


@dataclass
class Float8Config(GroupedConfig):
    """A checkpoint of float8 weights with a scale for each block of them, as DeepSeek's and Qwen's FP8 models."""

    name: ClassVar[str] = "fp8"
    method: ClassVar[str] = "fp8"
    holders: ClassVar[tuple[str, ...]] = ("runner.models.grouped", "runner.models.float8_linear")
    packed_names: ClassVar[tuple[str, ...]] = (".weight",)

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:
        """Rows stay as they are, as transformers leaves them on a CPU."""
        block = _block(stored)
        outputs, group = (-1, -1) if block is None else block
        return GroupSettings("float8_blocks", (8,), group, outputs=outputs)

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> str:
        """Blocks are two whole numbers."""
        block = _block(stored)
        if block is not None and (not block or not _are_sizes(block, 2)):
            return f"weight_block_size={block!r}: two whole numbers from 1 to {MAX_BLOCK} expected, or null"
        if stored.get("expert_dtype", "fp8") != "fp8":
            return f"expert_dtype={stored['expert_dtype']!r}: the runner reads fp8"
        return ""


@dataclass
class FbgemmFp8Config(GroupedConfig):
    """A checkpoint of float8 weights with a scale for each output, as Llama 3.1 405B's FP8 model."""

    name: ClassVar[str] = "fbgemm_fp8"
    method: ClassVar[str] = "fbgemm_fp8"
    holders: ClassVar[tuple[str, ...]] = Float8Config.holders
    packed_names: ClassVar[tuple[str, ...]] = (".weight",)

    @classmethod
    def settings_of(cls, stored: dict[str, Any]) -> GroupSettings:  # noqa: ARG003
        """Rows stay as they are: what rounds them is a program for GPUs."""
        return GroupSettings("float8", (8,), -1)

    @classmethod
    def refusal_of(cls, stored: dict[str, Any]) -> str:  # noqa: ARG003
        """There is one variant."""
        return ""


@dataclass
class FloatQuantizedConfig(GroupedConfig):
    """A checkpoint of compressed-tensors whose weights are float8, and perhaps its rows (FP8 of llm-compressor)."""

    name: ClassVar[str] = "float_quantized"
    method: ClassVar[str] = "compressed-tensors"
    holders: ClassVar[tuple[str, ...]] = Float8Config.holders
    packed_names: ClassVar[tuple[str, ...]] = (".weight",)

    @classmethod
    def is_own(cls, stored: dict[str, Any]) -> bool:
        """Whether each group of layers is in the format float-quantized, or so without saying it."""
        groups = stored.get("config_groups")
        if stored.get("quant_method") != cls.method or not isinstance(groups, dict) or not groups:
            return False
        listed = [one for one in groups.values() if isinstance(one, dict)]
        formats = {str(one.get("format") or stored.get("format")) for one in listed}
        types = [weights.get("type") for one in listed if isinstance(weights := one.get("weights"), dict)]
        is_float = formats == {FORMATS[0]} or (formats <= set(FORMATS) and set(types) == {"float"})
        return is_float and len(listed) == len(groups)

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
    def refusal_of(cls, stored: dict[str, Any]) -> str:
        """Weights are e4m3; rows are e4m3 by row or group as they come, or as a whole."""
        if problem := beyond_weights(stored):
            return problem
        groups = list(stored["config_groups"].values())
        for one in groups:
            if problem := _problem(one):
                return problem
        if any({**one, "targets": 0} != {**groups[0], "targets": 0} for one in groups):
            return "its groups of layers have different settings, and the runner reads one for all"
        return ""


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


def _problem(group: dict[str, Any]) -> str:
    weights, rows = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, dict):
        return "each of its config_groups needs `weights`"
    kinds = weights.get("num_bits"), weights.get("type"), weights.get("symmetric", True), weights.get("strategy")
    sizes = {"channel": [], "tensor": [], "group": [weights.get("group_size")], "block": weights.get("block_structure")}
    if kinds[:3] != (8, "float", True) or not isinstance(kinds[3], str) or kinds[3] not in sizes:
        return (
            "its weights are num_bits={} type={} symmetric={} strategy={}, and the runner reads symmetric float of 8 "
            "bits by channel, tensor, group or block"
        ).format(*kinds)
    if not _are_sizes(sizes[kinds[3]], 2 if kinds[3] == "block" else 1):
        return (
            f"its weights have group_size={weights.get('group_size')} block_structure={weights.get('block_structure')}"
        )
    if group.get("output_activations"):
        return "its outputs are quantized, too, which the runner does not read"
    if not rows:
        return ""
    if not isinstance(rows, dict):
        return f"input_activations={rows!r}: a JSON object expected"
    kinds = rows.get("num_bits"), rows.get("type"), rows.get("dynamic"), rows.get("strategy")
    known = [(8, "float", True, "token"), (8, "float", True, "group"), (8, "float", False, "tensor")]
    is_read = kinds in known and rows.get("symmetric", True) is True and not rows.get("scale_dtype")
    if not is_read or (kinds[3] == "group" and not _are_sizes([rows.get("group_size")], 1)):
        return (
            "its rows are num_bits={} type={} dynamic={} strategy={} group_size={}, and the runner reads symmetric "
            "float of 8 bits, dynamic by token or group, or static by tensor"
        ).format(*kinds, rows.get("group_size"))
    return ""


def _are_sizes(values: Any, count: int) -> bool:
    """Whether these are whole numbers above 0, as many as expected, or none where none belong."""
    if not isinstance(values, list):
        return False
    return not values or (len(values) == count and all(type(it) is int and 0 < it <= MAX_BLOCK for it in values))
