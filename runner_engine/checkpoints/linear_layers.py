"""Finds a checkpoint's linear layers by tensor name, and chooses a quantization for each. Imports no torch.

One walk over the headers decides: predictions, refusals and the layers that the loader leaves plain
follow from it. Names decide what is a linear layer in the model: where quantization separates
experts (experts.py), each of their matrices is one; else transformers fuses them into one
parameter. Routers are no linear layers. A checkpoint's own code (model.trust_remote_code) may keep
experts separate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner_base import ConfigError
from runner_engine.checkpoints.experts import ExpertMatrix
from runner_engine.checkpoints.library_rules import (
    OUTSIDE_BLOCKS,
    compute_unquantized_nbytes,
    is_excluded_from_quantization,
)
from runner_engine.checkpoints.resolved_model import ModelFiles
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.quantization.base import OTHER_LINEAR, QuantizationConfig
from runner_engine.quantization.capabilities import SizeChecker
from runner_engine.quantization.quantization_mix import QuantizationMix
from runner_engine.quantization.quantized_share import QuantizedShare, check_few_unquantizable

IN_A_BLOCK = re.compile(r"\.\d+\.")  # model.layers.0.self_attn…, transformer.h.0.…
EXPERT = re.compile(r"(^|\.)experts\.\d+\.")  # one of a mixture, whose matrices are stored apart
ROUTER = re.compile(r"\.(gate|router)(\.(layer|gate))?\.weight$")
# families whose routers are linear layers like others
LINEAR_ROUTERS = frozenset({"afmoe", "dbrx", "jetmoe"})
# by Zamba's blocks: libraries leave plain what transformers ties
SHARED = re.compile(r"\.shared_transf(ormer)?\.")
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True)
class QuantizationPlan:
    """The quantization config of each tensor that will be quantized, by tensor name."""

    choices: dict[str, QuantizationConfig]  # of those that are quantized
    unfit: dict[str, tuple[str, int]]  # layers that cannot be: why, and their numbers
    share: QuantizedShare
    left: dict[str, int]  # the numbers in each matrix that stays as it is

    def check_unquantizable(self, quantization_name: str) -> None:
        """Raise ConfigError if too many layers have a shape that the quantization format does not support."""
        check_few_unquantizable(quantization_name, self.unfit, self.share.in_blocks)


def plan_quantization(
    tensors: Iterable[TensorLocation],
    config: Mapping[str, Any],
    quantization_mix: QuantizationMix,
    device: str = "cpu",
    has_fused_experts: bool = True,
    dtype_bytes: int = 2,
) -> QuantizationPlan:
    """Choose a quantization config for each tensor by its name and shape.

    Layers that the format does not support stay unquantized.
    """
    family = str(config.get("model_type", ""))
    ties_blocks = has_fused_experts and bool(config.get("tie_word_embeddings", True))
    listed = list(tensors)
    parts = {tensor.name: classify_tensor(tensor, has_fused_experts, family) for tensor in listed}
    is_tied = bool(config.get("tie_word_embeddings")) and "embedding" in parts.values()
    choices: dict[str, QuantizationConfig] = {}
    unfit: dict[str, tuple[str, int]] = {}
    total = in_blocks = named = quantized_bytes = left_bytes = 0
    left: dict[str, int] = {}
    for tensor in listed:
        part, path, is_in_block = (
            parts[tensor.name],
            get_layer_path(tensor),
            bool(IN_A_BLOCK.search(tensor.name)),
        )
        if part == "head" and is_tied:
            continue  # the same numbers as the embedding's
        total += tensor.num_elements
        in_blocks += tensor.num_elements * is_in_block
        choice = (
            quantization_mix.select_layer_config(path, is_head=part == "head")
            if part in ("linear", "head")
            else None
        )
        is_reached = part == "head" or (
            choice is not None and choice.supports_family(family, quantization_mix.base.is_mixed)
        )
        is_shared = ties_blocks and SHARED.search(tensor.name)
        is_left = is_shared or is_excluded_from_quantization(tensor.name, family)
        if choice is not None and choice.packed and is_reached and not is_left:
            outputs, inputs = get_linear_shape(tensor, config)
            reason = (
                choice.find_unquantizable_reason(outputs, inputs, device)
                if isinstance(choice, SizeChecker)
                else ""
            )
            if not reason:
                choices[tensor.name] = choice
                quantized_bytes += sum(
                    choice.compute_weight_nbytes(outputs, tensor.num_elements, dtype_bytes)
                )
                continue
            unfit[path] = reason, tensor.num_elements
        elif (
            is_in_block
            and quantization_mix.base.is_mixed
            and not quantization_mix.select_layer_config(path).packed
        ):
            named += tensor.num_elements
        left_bytes += compute_unquantized_nbytes(tensor.name, tensor.num_elements, family, dtype_bytes)
        if len(tensor.shape) > 1:
            left[tensor.name] = tensor.num_elements
    numbers = {tensor.name: tensor.num_elements for tensor in listed}
    quantized = [name for name in choices if IN_A_BLOCK.search(name)]
    share = QuantizedShare(
        sum(numbers[name] for name in choices),
        total,
        sum(numbers[name] for name in quantized),
        in_blocks,
        named,
        quantized_bytes,
        quantized_bytes + left_bytes,
    )
    return QuantizationPlan(choices, unfit, share, left)


def plan_model_quantization(
    files: ModelFiles, quantization_mix: QuantizationMix, device: str
) -> QuantizationPlan:
    return plan_quantization(
        files.tensors_with_split_experts,
        files.text_settings,
        quantization_mix,
        device,
        files.fuses_experts,
        files.dtype_bytes,
    )


def will_separate_experts(files: ModelFiles, quantization_mix: QuantizationMix) -> bool:
    matrices = (tensor for tensor in files.tensors_with_split_experts if isinstance(tensor, ExpertMatrix))
    return quantization_mix.quantizes and any(
        quantization_mix.select_layer_config(get_layer_path(matrix)).packed for matrix in matrices
    )


def list_loaded_tensors(files: ModelFiles, quantization_mix: QuantizationMix) -> list[TensorLocation]:
    return (
        files.tensors_with_split_experts if will_separate_experts(files, quantization_mix) else files.tensors
    )


@dataclass(frozen=True)
class UnquantizedLayers:
    """Measures of the linear layers that stay unquantized, in `model.dtype`."""

    nbytes: int  # of the linear weights in blocks
    share_of_shapes: float  # of all shapes of linear weights, so many have a plain one
    has_quantized_head: bool


def measure_unquantized_layers(files: ModelFiles, quantization_mix: QuantizationMix) -> UnquantizedLayers:
    layers, heads = find_linear_layers(
        list_loaded_tensors(files, quantization_mix), files.text_settings, files.fuses_experts
    )
    plain = [
        tensor for path, tensor in layers.items() if not quantization_mix.select_layer_config(path).packed
    ]
    shapes, plain_shapes = ({tensor.shape for tensor in some} for some in (layers.values(), plain))
    return UnquantizedLayers(
        sum(tensor.num_elements for tensor in plain) * files.dtype_bytes,
        len(plain_shapes) / max(len(shapes), 1),
        any(quantization_mix.select_layer_config(path, is_head=True).packed for path in heads),
    )


def find_linear_layers(
    tensors: Iterable[TensorLocation], config: Mapping[str, Any], has_fused_experts: bool = True
) -> tuple[dict[str, TensorLocation], dict[str, TensorLocation]]:
    """Return the weights of linear layers by layer path: first those in decoder blocks, then an
    untied head.
    """
    by_part: dict[str, dict[str, TensorLocation]] = {}
    for tensor in tensors:
        part = classify_tensor(tensor, has_fused_experts, config.get("model_type"))
        if part != "linear" or IN_A_BLOCK.search(tensor.name):
            by_part.setdefault(part, {})[get_layer_path(tensor)] = tensor
    is_tied = config.get("tie_word_embeddings") and "embedding" in by_part
    return by_part.get("linear", {}), {} if is_tied else by_part.get("head", {})


def classify_tensor(tensor: TensorLocation, has_fused_experts: bool = True, family: object = "") -> str:
    """Return which module a tensor belongs to: linear, expert, embedding, head or other."""
    if isinstance(tensor, ExpertMatrix):
        return "linear"
    if tensor.name.endswith(HEADS) and not IN_A_BLOCK.search(tensor.name):
        return "head"
    if has_fused_experts and len(tensor.shape) == 2 and IN_A_BLOCK.search(tensor.name):
        if EXPERT.search(tensor.name):
            return "expert"
        if ROUTER.search(tensor.name) and family not in LINEAR_ROUTERS:
            return "other"
    if len(tensor.shape) == 2 and tensor.name.endswith(".weight"):
        is_linear = IN_A_BLOCK.search(tensor.name) or OUTSIDE_BLOCKS.search(tensor.name)
        return "linear" if is_linear else "embedding"
    return "other"


def get_linear_shape(tensor: TensorLocation, config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of outputs and inputs of a linear layer, also for GPT-2's transposed weights."""
    first, second = tensor.shape
    is_turned = config.get("model_type") in OTHER_LINEAR and IN_A_BLOCK.search(tensor.name)
    return (second, first) if is_turned else (first, second)


def find_block_number_position(layer_path: str) -> int:
    """Return which component of a dot-separated layer path is the block number.

    Raises ConfigError for a layer outside the decoder blocks.
    """
    number = next((at for at, part in enumerate(layer_path.split(".")) if part.isdigit()), None)
    if number is None:
        raise ConfigError(
            "the quantization loss can be measured only for layers inside decoder blocks",
            key=layer_path,
            code="unsupported",
        )
    return number


def get_block_path(layer_path: str) -> str:
    return ".".join(layer_path.split(".")[: find_block_number_position(layer_path) + 1])


def get_layer_path(tensor: TensorLocation) -> str:
    return tensor.name.removesuffix(".weight")
