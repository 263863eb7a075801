"""Loads a .gguf file: linear layers and the embedding keep their blocks, or all weights are
unpacked.

transformers itself keeps blocks only for kernels from a hub. It builds the model; gguf_names.py
knows how a file's tensors are named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runner_base import DataError
from runner_engine.checkpoints.architectures.base import Change, Order
from runner_engine.checkpoints.gguf_file import read_header
from runner_engine.checkpoints.gguf_names import Place, places_of
from runner_engine.models.gguf_blocks import GgufEmbedding, GgufLinear, OfDtype, with_columns
from runner_engine.models.gguf_types import TYPES
from runner_engine.models.loading import gguf_experts
from runner_engine.models.loading.contract import Report, WayOfLoading
from runner_engine.models.loading.gguf_tensors import numbers_of, stored_bytes
from runner_engine.quantization.base import OwnLayers
from runner_engine.settings.model import Attention

CASTING = ("mamba2",)  # models that bring what the head gets to the dtype of its weight


class Way(WayOfLoading):
    """The file is read here, and not by transformers."""

    def read(self, arguments: dict[str, Any], scaled: Any) -> tuple[Any, Report]:
        """Return the model on its device."""
        wanted = self.plan.attention
        attention = None if wanted is Attention.auto else wanted.value
        keeps_blocks = self.resolved.mix.base.own_layers is OwnLayers.blocks
        model, report = load(
            self.folder, self.own_settings(scaled), self.target.dtype, attention, keeps_blocks
        )
        model.to(self.device)
        return model, report


def load(
    path: Path, config: Any, dtype: torch.dtype, attention: str | None, keeps_blocks: bool = True
) -> tuple[Any, dict[str, list[str]]]:
    """Build the model of a .gguf file and return it with the names of tensors that are missing, or
    of no use."""
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    header = read_header(path)
    arguments = {} if attention is None else {"attn_implementation": attention}
    with no_init_weights():  # memory that nobody writes is not taken
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, **arguments)
    unfilled = set(model.state_dict())
    places = places_of(header)
    unused = places.unused
    for place in places.weights:
        if place.name not in unfilled:
            unused += [tensor.name for tensor in place.tensors]
            continue
        if not (keeps_blocks and _keep(model, place, config, dtype)):
            _unpack(model, place, config)
        unfilled.discard(place.name)
    for of_layer, tensors in places.experts.items():
        filled = gguf_experts.fill(model, of_layer, tensors, keeps_blocks)
        if not filled:
            unused += [tensor.name for tensor in tensors.values()]
        unfilled -= filled
    if config.get_text_config().tie_word_embeddings:
        unfilled -= _tie(model)
    head = model.get_output_embeddings()
    if config.model_type in CASTING and isinstance(head, GgufLinear):
        model.set_output_embeddings(OfDtype(head, dtype))
    if not keeps_blocks and (path.parent / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(path.parent, local_files_only=True)
    return model, {"missing_keys": sorted(unfilled), "unexpected_keys": unused}


def _keep(model: Any, place: Place, config: Any, dtype: torch.dtype) -> bool:
    """Let a layer of the model be the blocks of its tensors; False if they cannot stay as they
    are."""
    path, _, part = place.name.rpartition(".")
    module = model.get_submodule(path)
    first, change = place.tensors[0], place.change or Change()
    kinds = {tensor.dtype for tensor in place.tensors}
    if len(kinds) > 1 or first.dtype not in TYPES or part != "weight" or change.numbers or change.together:
        return False
    rows = sum(tensor.shape[0] for tensor in place.tensors)
    if type(module) is nn.Linear and (rows, first.shape[1]) == (module.out_features, module.in_features):
        order = _order(change.rows, config, rows)
        stored = [stored_bytes(tensor) for tensor in place.tensors]
        columns = _order(change.columns, config, module.in_features)
        together = stored[0] if len(stored) == 1 else torch.cat(stored)
        if columns is None:
            layer: nn.Module = GgufLinear(module, together, first.dtype, order)
        else:
            layer = with_columns(module, together, first.dtype, order, columns)
        model.set_submodule(path, layer)
        return True
    if isinstance(module, nn.Embedding) and first.shape == (module.num_embeddings, module.embedding_dim):
        model.set_submodule(path, GgufEmbedding(module, stored_bytes(first), first.dtype, dtype))
        return True
    return False


def _unpack(model: Any, place: Place, config: Any) -> None:
    """Write the numbers of a weight's tensors into the model."""
    path, _, part = place.name.rpartition(".")
    change = place.change or Change()
    numbers = [numbers_of(tensor) for tensor in place.tensors]
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
        names = ", ".join(tensor.name for tensor in place.tensors)
        raise DataError(
            f"tensor {names} is {list(values.shape)}, and the model's {place.name} {list(own.shape)}",
            code="mismatch",
        )
    with torch.no_grad():
        own.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _order(order: Order | None, config: Any, count: int) -> torch.Tensor | None:
    """Return which one of the file each one of the model is; None if all are where they were."""
    if order is None:
        return None
    places = torch.from_numpy(np.ascontiguousarray(order(config, count)))
    return None if bool((places == torch.arange(count)).all()) else places


def _tie(model: Any) -> set[str]:
    """Let the head share the embedding's weights; return the names that are filled by that."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, GgufEmbedding):
        model.set_output_embeddings(GgufLinear(head, embedding.weight, embedding.kind, None))
    else:
        model.tie_weights()
    path = next(path for path, module in model.named_modules() if module is model.get_output_embeddings())
    return {f"{path}.weight"}
