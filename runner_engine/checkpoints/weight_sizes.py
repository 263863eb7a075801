"""Computes the bytes of a model's weights in memory, tensor by tensor. Imports no torch.

plan/load_plan.py decides which tensors are quantized while loading. The others keep model.dtype, or
are codes in the file; tied tensors count once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_engine.checkpoints.library_rules import compute_unquantized_nbytes
from runner_engine.checkpoints.linear_layers import classify_tensor, get_layer_path, get_linear_shape
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.quantization.base import OwnLayers, QuantizationConfig, StoredFormat
from runner_engine.quantization.quantization_mix import QuantizationMix

STORED_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}  # other stored types are kept as they are
PARTS = ("linear", "scales", "expert", "embedding", "head", "other")


def compute_weight_nbytes(
    tensors: list[TensorLocation],
    config: Mapping[str, Any],
    stored_format: StoredFormat | None,
    quantization_configs: Mapping[str, QuantizationConfig],
    dtype_bytes: int,
    has_fused_experts: bool = True,
) -> dict[str, int]:
    """Return the bytes of the loaded weights for each part of the model.

    The part `scales` contains quantization constants. quantization_configs: quantization configs
    of the tensors that the load quantizes, by tensor name.
    """
    parts = dict.fromkeys(PARTS, 0)
    has_embedding = any(classify_tensor(tensor) == "embedding" for tensor in tensors)
    coded = _find_quantized_tensors_and_layers(tensors, stored_format)
    for tensor in tensors:
        part = classify_tensor(tensor, has_fused_experts, config.get("model_type"))
        if part == "head" and config.get("tie_word_embeddings") and has_embedding:
            continue  # the same memory as the embedding
        if (
            stored_format is not None
            and stored_format.config.own_layers is OwnLayers.made_groups
            and "_weight_" in tensor.name
        ):
            if tensor.name.endswith(stored_format.config.tensors.codes):  # a byte for each code in the file
                linear, scales = stored_format.config.compute_weight_nbytes(
                    tensor.shape[0], tensor.num_elements, dtype_bytes
                )
                parts["linear"], parts["scales"] = (parts["linear"] + linear, parts["scales"] + scales)
        elif stored_format is not None and _is_quantization_tensor(tensor, stored_format, coded):
            part = "linear" if tensor.name.endswith(stored_format.config.tensors.codes) else "scales"
            is_note = any(name in tensor.name for name in stored_format.config.tensors.notes)
            parts[part] += 0 if is_note else tensor.nbytes
        elif tensor.dtype not in STORED_BYTES:  # stored quantized: loaded as it is, an expert's, too
            parts["linear" if part == "expert" else part] += tensor.nbytes
        elif tensor.name in quantization_configs:
            linear, scales = quantization_configs[tensor.name].compute_weight_nbytes(
                get_linear_shape(tensor, config)[0], tensor.num_elements, dtype_bytes
            )
            parts["linear"] += linear
            parts["scales"] += scales
        else:
            parts[part] += compute_unquantized_nbytes(
                tensor.name, tensor.num_elements, str(config.get("model_type", "")), dtype_bytes
            )
    return parts


def count_linear_weights(
    tensor: TensorLocation,
    stored_format: StoredFormat | None,
    quantization_mix: QuantizationMix | None = None,
) -> int:
    """Return how many weights a linear layer's tensor encodes. 0 for tensors of other layers."""
    packed = stored_format is not None and tensor.name.endswith(stored_format.config.tensors.codes)
    if stored_format is not None and (
        packed or (classify_tensor(tensor) == "linear" and tensor.dtype in ("U8", "I8", "F8_E4M3"))
    ):
        # of one expert
        return stored_format.count_weights(tensor.nbytes, tensor.dtype) // (
            tensor.shape[0] if len(tensor.shape) > 2 else 1
        )
    part = classify_tensor(tensor)
    is_quantized_head = (
        quantization_mix is not None
        and part == "head"
        and quantization_mix.select_layer_config(get_layer_path(tensor), is_head=True).packed
    )
    return tensor.num_elements if part == "linear" or is_quantized_head else 0


def _find_quantized_tensors_and_layers(
    tensors: list[TensorLocation], stored_format: StoredFormat | None
) -> set[str]:
    """Return the names of all tensors with quantized codes, and the paths of their layers."""
    ends = () if stored_format is None else stored_format.config.tensors.codes
    names = {tensor.name: end for tensor in tensors for end in ends if tensor.name.endswith(end)}
    return {*names, *(name.removesuffix(end) for name, end in names.items())}


def _is_quantization_tensor(
    tensor: TensorLocation, stored_format: StoredFormat, quantized_names: set[str]
) -> bool:
    """Whether a tensor holds quantization constants of a layer, such as scales."""
    if tensor.name.endswith((".weight", ".bias", "_bias")):
        return False
    if tensor.name.endswith(stored_format.config.tensors.fused_scales):
        return True
    if not stored_format.config.tensors.codes:
        return True  # codes have the name of the weight, so their layers cannot be told by names
    # LAYER.scales, LAYER_scales
    paths = {tensor.name.rpartition(".")[0], tensor.name.rpartition("_")[0]}
    return (
        not quantized_names.isdisjoint(paths)
        or tensor.name.endswith(stored_format.config.tensors.codes)
        or tensor.dtype not in STORED_BYTES
    )
