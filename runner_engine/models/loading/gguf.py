"""Loading backend for .gguf files. Linear layers and the embedding stay quantized, or are dequantized.

transformers builds the model, but itself keeps blocks only for kernels from a hub. gguf_names.py
maps a file's tensor names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runner_base import DataError
from runner_engine.checkpoints.architectures.base import RowOrderFunction, TensorChange
from runner_engine.checkpoints.gguf_file import read_gguf_header
from runner_engine.checkpoints.gguf_names import WeightMapping, map_gguf_tensors
from runner_engine.devices.mapped_files import MappedFiles
from runner_engine.models.gguf_blocks import (
    GgufEmbedding,
    GgufLinear,
    LinearWithDtype,
    build_linear_with_reordered_inputs,
)
from runner_engine.models.gguf_types import TYPES
from runner_engine.models.loading import gguf_experts
from runner_engine.models.loading.contract import LoadingBackend, LoadingInfo
from runner_engine.models.loading.gguf_tensors import dequantize_tensor, memory_map_tensor_blocks
from runner_engine.quantization.base import OwnLayers
from runner_engine.settings.model import Attention

CASTING = ("mamba2",)  # models that bring what the head gets to the dtype of its weight


class Backend(LoadingBackend):
    """Loads a .gguf file with our own reader instead of transformers'."""

    def load_model(self, arguments: dict[str, Any], rope_config: Any) -> tuple[Any, LoadingInfo]:
        wanted = self.plan.attention
        attention = None if wanted is Attention.auto else wanted.value
        keeps_blocks = self.resolved.quantization_mix.base.own_layers is OwnLayers.blocks
        model, report = load_gguf_model(
            self.folder, self.load_model_config(rope_config), self.target.dtype, attention, keeps_blocks
        )
        model.to(self.device)
        return model, report


def load_gguf_model(
    path: Path, config: Any, dtype: torch.dtype, attention: str | None, keeps_blocks: bool = True
) -> tuple[Any, dict[str, list[str]]]:
    """Build the model of a .gguf file and load its weights.

    Returns the model, and the missing and unused tensor names.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    header = read_gguf_header(path)
    arguments = {} if attention is None else {"attn_implementation": attention}
    with no_init_weights():  # memory that nobody writes is not taken
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, **arguments)
    unfilled = set(model.state_dict())
    places = map_gguf_tensors(header)
    unused = places.unused
    for place in places.weights:
        if place.name not in unfilled:
            unused += [tensor.name for tensor in place.tensors]
            continue
        if not (keeps_blocks and _assign_quantized_gguf_blocks(model, place, config, dtype)):
            _assign_dequantized_weight(model, place, config)
        unfilled.discard(place.name)
    for of_layer, tensors in places.experts.items():
        filled = gguf_experts.load_layer_experts(model, of_layer, tensors, keeps_blocks)
        if not filled:
            unused += [tensor.name for tensor in tensors.values()]
        unfilled -= filled
    if config.get_text_config().tie_word_embeddings:
        unfilled -= _tie_lm_head(model)
    head = model.get_output_embeddings()
    if config.model_type in CASTING and isinstance(head, GgufLinear):
        model.set_output_embeddings(LinearWithDtype(head, dtype))
    MappedFiles().release_files({tensor.file for tensor in header.tensors})  # all of which has been checked
    if not keeps_blocks and (path.parent / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path.parent, local_files_only=True)
    return model, {"missing_keys": sorted(unfilled), "unexpected_keys": unused}


def _assign_quantized_gguf_blocks(
    model: Any, mapping: WeightMapping, config: Any, dtype: torch.dtype
) -> bool:
    """Replace a layer by a layer with quantized .gguf blocks. Returns False if the blocks must be
    dequantized.
    """
    path, _, part = mapping.name.rpartition(".")
    module = model.get_submodule(path)
    first, change = mapping.tensors[0], mapping.change or TensorChange()
    kinds = {tensor.dtype for tensor in mapping.tensors}
    if len(kinds) > 1 or first.dtype not in TYPES or part != "weight" or change.numbers or change.together:
        return False
    rows = sum(tensor.shape[0] for tensor in mapping.tensors)
    if type(module) is nn.Linear and (rows, first.shape[1]) == (module.out_features, module.in_features):
        order = _compute_row_permutation(change.rows, config, rows)
        stored = [memory_map_tensor_blocks(tensor) for tensor in mapping.tensors]
        columns = _compute_row_permutation(change.columns, config, module.in_features)
        together = stored[0] if len(stored) == 1 else torch.cat(stored)
        if columns is None:
            layer: nn.Module = GgufLinear(module, together, first.dtype, order)
        else:
            layer = build_linear_with_reordered_inputs(module, together, first.dtype, order, columns)
        model.set_submodule(path, layer)
        return True
    if isinstance(module, nn.Embedding) and first.shape == (module.num_embeddings, module.embedding_dim):
        model.set_submodule(path, GgufEmbedding(module, memory_map_tensor_blocks(first), first.dtype, dtype))
        return True
    return False


def _assign_dequantized_weight(model: Any, mapping: WeightMapping, config: Any) -> None:
    """Dequantize the .gguf tensors that make up one weight, and copy the weight into the model."""
    path, _, part = mapping.name.rpartition(".")
    change = mapping.change or TensorChange()
    numbers = [dequantize_tensor(tensor) for tensor in mapping.tensors]
    if change.together is not None:
        values = change.together(config, numbers)
    else:
        values = numbers[0] if len(numbers) == 1 else np.concatenate(numbers)
    if change.rows is not None:
        values = values[change.rows(config, len(values))]
    if change.columns is not None:
        values = values[:, change.columns(config, values.shape[1])]
    if change.numbers is not None:
        values = change.numbers(config, values)
    own = getattr(model.get_submodule(path), part)
    if tuple(values.shape) != tuple(own.shape):
        names = ", ".join(tensor.name for tensor in mapping.tensors)
        raise DataError(
            f"tensor {names} has the shape {list(values.shape)}, "
            f"but the model's {mapping.name} needs {list(own.shape)}",
            code="mismatch",
        )
    with torch.no_grad():
        own.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _compute_row_permutation(
    get_row_order: RowOrderFunction | None, config: Any, num_rows: int
) -> torch.Tensor | None:
    if get_row_order is None:
        return None
    places = torch.from_numpy(np.ascontiguousarray(get_row_order(config, num_rows)))
    return None if bool((places == torch.arange(num_rows)).all()) else places


def _tie_lm_head(model: Any) -> set[str]:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, GgufEmbedding):
        model.set_output_embeddings(GgufLinear(head, embedding.weight, embedding.kind, None))
    else:
        model.tie_weights()
    path = next(path for path, module in model.named_modules() if module is model.get_output_embeddings())
    return {f"{path}.weight"}
