"""The bytes of a model's weights in memory, tensor by tensor, as the libraries will hold them; no
torch.

Which tensors are quantized while loading is decided elsewhere (plan/load_plan.py). The others keep
model.dtype, or are codes in the file; tied tensors count once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner_engine.checkpoints.library_rules import plain_bytes
from runner_engine.checkpoints.linear_layers import layer_of, part_of, sizes_of
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.quantization.base import Format, OwnLayers, QuantizationConfig
from runner_engine.quantization.mixed import Mix

STORED_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}  # other stored types are kept as they are
PARTS = ("linear", "scales", "expert", "embedding", "head", "other")


def weight_bytes(
    tensors: list[Tensor],
    settings: Mapping[str, Any],
    stored: Format | None,
    choices: Mapping[str, QuantizationConfig],
    dtype_bytes: int,
    fuses_experts: bool = True,
) -> dict[str, int]:
    """Bytes of the loaded weights by part, quantization constants (`scales`) included.

    choices: of the tensors that the load quantizes, by name.
    """
    parts = dict.fromkeys(PARTS, 0)
    has_embedding = any(part_of(tensor) == "embedding" for tensor in tensors)
    coded = _coded(tensors, stored)
    for tensor in tensors:
        part = part_of(tensor, fuses_experts, settings.get("model_type"))
        if part == "head" and settings.get("tie_word_embeddings") and has_embedding:
            continue  # the same memory as the embedding
        if (
            stored is not None
            and stored.config.own_layers is OwnLayers.made_groups
            and "_weight_" in tensor.name
        ):
            if tensor.name.endswith(stored.config.tensors.codes):  # a byte for each code in the file
                linear, scales = stored.config.price(tensor.shape[0], tensor.params, dtype_bytes)
                parts["linear"], parts["scales"] = (parts["linear"] + linear, parts["scales"] + scales)
        elif stored is not None and _is_of_codes(tensor, stored, coded):
            part = "linear" if tensor.name.endswith(stored.config.tensors.codes) else "scales"
            is_note = any(name in tensor.name for name in stored.config.tensors.notes)
            parts[part] += 0 if is_note else tensor.nbytes
        elif tensor.dtype not in STORED_BYTES:  # stored quantized: loaded as it is, an expert's, too
            parts["linear" if part == "expert" else part] += tensor.nbytes
        elif tensor.name in choices:
            linear, scales = choices[tensor.name].price(
                sizes_of(tensor, settings)[0], tensor.params, dtype_bytes
            )
            parts["linear"] += linear
            parts["scales"] += scales
        else:
            parts[part] += plain_bytes(
                tensor.name, tensor.params, str(settings.get("model_type", "")), dtype_bytes
            )
    return parts


def elements(tensor: Tensor, stored: Format | None, mix: Mix | None = None) -> int:
    """Count the numbers of a linear weight, packed or not; 0 for any other tensor."""
    packed = stored is not None and tensor.name.endswith(stored.config.tensors.codes)
    if stored is not None and (
        packed or (part_of(tensor) == "linear" and tensor.dtype in ("U8", "I8", "F8_E4M3"))
    ):
        # of one expert
        return stored.numbers(tensor.nbytes, tensor.dtype) // (
            tensor.shape[0] if len(tensor.shape) > 2 else 1
        )
    part = part_of(tensor)
    is_quantized_head = (
        mix is not None and part == "head" and mix.choice_for(layer_of(tensor), is_head=True).packed
    )
    return tensor.params if part == "linear" or is_quantized_head else 0


def _coded(tensors: list[Tensor], stored: Format | None) -> set[str]:
    """Return the names of stored codes, and the paths of their layers."""
    ends = () if stored is None else stored.config.tensors.codes
    names = {tensor.name: end for tensor in tensors for end in ends if tensor.name.endswith(end)}
    return {*names, *(name.removesuffix(end) for name, end in names.items())}


def _is_of_codes(tensor: Tensor, stored: Format, coded: set[str]) -> bool:
    """Whether a tensor is of a quantized layer, and neither its codes under the name of a weight
    nor its bias."""
    if tensor.name.endswith((".weight", ".bias", "_bias")):
        return False
    if tensor.name.endswith(stored.config.tensors.fused_scales):
        return True
    if not stored.config.tensors.codes:
        return True  # codes have the name of the weight, so their layers cannot be told by names
    # LAYER.scales, LAYER_scales
    paths = {tensor.name.rpartition(".")[0], tensor.name.rpartition("_")[0]}
    return (
        not coded.isdisjoint(paths)
        or tensor.name.endswith(stored.config.tensors.codes)
        or tensor.dtype not in STORED_BYTES
    )
