"""Loads a .gguf file: linear layers and the embedding keep their blocks, or all weights are unpacked.

transformers itself keeps blocks only for kernels from a hub. It builds the model; gguf_names.py knows how a file's
tensors are named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runner_base import DataError
from runner_engine.checkpoints.gguf_file import NOT_WEIGHTS, read_header
from runner_engine.checkpoints.gguf_names import weight_name
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear
from runner_engine.models.gguf_types import TYPES, scales_of
from runner_engine.models.loading.contract import Report, WayOfLoading
from runner_engine.settings.model import Attention

Numbers = np.ndarray[Any, Any]
InModel = Callable[[str, Numbers], Numbers]  # a tensor's name and numbers → its numbers in the model


class Way(WayOfLoading):
    """The file is read here, and not by transformers."""

    def read(self, arguments: dict[str, Any], scaled: Any) -> tuple[Any, Report]:
        """Return the model on its device."""
        wanted = self.target.attention
        attention = None if wanted is Attention.auto else wanted.value
        keeps_blocks = self.resolved.mix.base.keeps_blocks
        model, report = load(self.folder, self.own_settings(scaled), self.target.dtype, attention, keeps_blocks)
        model.to(self.device)
        return model, report


def load(
    path: Path, config: Any, dtype: torch.dtype, attention: str | None, keeps_blocks: bool = True
) -> tuple[Any, dict[str, list[str]]]:
    """Build the model of a .gguf file and return it with the names of tensors that are missing, or of no use."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    header = read_header(path)
    arguments = {} if attention is None else {"attn_implementation": attention}
    with no_init_weights():  # memory that nobody writes is not taken
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, **arguments)
    in_model = partial(_in_model, header.architecture, config)
    unfilled, unused = set(model.state_dict()), []
    for tensor in header.tensors:
        name = weight_name(header.architecture, tensor.name)
        if name is None or name not in unfilled:
            unused += [] if tensor.name in NOT_WEIGHTS else [tensor.name]
            continue
        if not (keeps_blocks and _keep(model, name, tensor, in_model, dtype)):
            _unpack(model, name, tensor, in_model)
        unfilled.discard(name)
    if config.get_text_config().tie_word_embeddings:
        unfilled -= _tie(model)
    if not keeps_blocks and (path.parent / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path.parent, local_files_only=True)
    return model, {"missing_keys": sorted(unfilled), "unexpected_keys": unused}


def stored_bytes(tensor: Tensor) -> torch.Tensor:
    """Return a matrix's blocks in the mapped file, uint8 [outputs, bytes]; DataError where a scale is no number."""
    data = np.memmap(tensor.file, mode="c", dtype=np.uint8, offset=tensor.offset, shape=(tensor.nbytes,))
    stored: torch.Tensor = torch.from_numpy(data).view(*tensor.shape[:-1], -1)
    if not scales_of(stored, tensor.dtype).isfinite().all():
        raise DataError(f"{tensor.file}: tensor {tensor.name}: a scale of its blocks is not a finite number")
    return stored


def _in_model(architecture: str, config: Any, name: str, values: Numbers) -> Numbers:
    """Return a tensor as the model has it: a .gguf file has a Llama's heads in pairs, and 1 more in Gemma's norms."""
    if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        in_pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
        return in_pairs.swapaxes(2, 1).reshape(values.shape)
    if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return values - 1
    return values


def _keep(model: Any, name: str, tensor: Tensor, in_model: InModel, dtype: torch.dtype) -> bool:
    """Let a layer of the model be the blocks of a tensor; False if they cannot stay as they are."""
    path, _, part = name.rpartition(".")
    module = model.get_submodule(path)
    if tensor.dtype not in TYPES or part != "weight":
        return False
    if type(module) is nn.Linear and tensor.shape == (module.out_features, module.in_features):
        order = _row_order(in_model, tensor)
        if order is None:
            return False
        is_same = bool((order == torch.arange(len(order))).all())
        layer = GgufLinear(module, stored_bytes(tensor), tensor.dtype, None if is_same else order)
        model.set_submodule(path, layer)
        return True
    if isinstance(module, nn.Embedding) and tensor.shape == (module.num_embeddings, module.embedding_dim):
        model.set_submodule(path, GgufEmbedding(module, stored_bytes(tensor), tensor.dtype, dtype))
        return True
    return False


def _unpack(model: Any, name: str, tensor: Tensor, in_model: InModel) -> None:
    """Write a tensor's numbers into the model."""
    path, _, part = name.rpartition(".")
    values = in_model(tensor.name, _numbers(tensor))
    own = getattr(model.get_submodule(path), part)
    if tuple(values.shape) != tuple(own.shape):
        raise DataError(f"tensor {tensor.name} is {list(values.shape)}, and the model's {name} {list(own.shape)}")
    with torch.no_grad():
        own.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _row_order(in_model: InModel, tensor: Tensor) -> torch.Tensor | None:
    """Return the rows of a file's matrix in the model's order; None if the model's has others."""
    rows = np.arange(tensor.shape[0])[:, None]
    order = in_model(tensor.name, rows)
    if order.shape != rows.shape or not (np.sort(order, axis=0) == rows).all():
        return None
    return torch.from_numpy(np.ascontiguousarray(order[:, 0]))


def _numbers(tensor: Tensor) -> Numbers:
    """Return a tensor's numbers in float32, by the gguf package."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = np.memmap(tensor.file, mode="r", dtype=np.uint8, offset=tensor.offset, shape=(tensor.nbytes,))
    kind = GGMLQuantizationType[tensor.dtype]
    return np.array(dequantize(data.reshape(*tensor.shape[:-1], -1), kind), dtype=np.float32).reshape(tensor.shape)


def _tie(model: Any) -> set[str]:
    """Let the head share the embedding's weights; return the names that are filled by that."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, GgufEmbedding):
        model.set_output_embeddings(GgufLinear(head, embedding.weight, embedding.kind, None))
    else:
        model.tie_weights()
    path = next(path for path, module in model.named_modules() if module is model.get_output_embeddings())
    return {f"{path}.weight"}
