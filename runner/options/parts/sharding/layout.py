"""Groups a checkpoint's tensors by name into embedding, layers, final norm and head.

Names on disk are not always module names: some model families rename tensors at load. Only
headers are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runner_base import DataError
from runner_engine import TensorLocation
from runner_engine.checkpoints import Checkpoint

LAYER_COUNT_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.|^(output|score)\.")
TOKEN_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|embeddings?)\.[^.]+$"
)
EMBEDDING = re.compile(r"embed|(^|\.)(wte|wpe)\.|project_in")
FINAL_NORM = re.compile(r"(?!word_embed|embed_|emb_)(\w*norm\w*|ln_\w+)\.")
NORM = re.compile(r"norm|(^|\.)ln_\w+\.")
ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
MLP = re.compile(r"mlp|feed_?forward|ffn|experts|(^|\.)(fc\d|dense_\w+|wi|wo)\.", re.IGNORECASE)


@dataclass
class ModelLayout:
    """Tensors of a checkpoint, grouped into embedding, layers, final norm and head."""

    stack: str  # the prefix of the layer numbers, e.g. model.layers
    layers: list[list[TensorLocation]]
    # embeddings, and everything else before the layers
    first: list[TensorLocation] = field(default_factory=list)
    norm: list[TensorLocation] = field(default_factory=list)
    head: list[TensorLocation] = field(default_factory=list)
    tied: list[TensorLocation] = field(default_factory=list)  # the embedding that is also the head


def group_tensors_into_layout(checkpoint: Checkpoint) -> ModelLayout:
    """Group a checkpoint's tensors into embedding, layers, final norm and head, based on tensor names
    and config.json.
    """
    count, key = _read_num_layers(checkpoint)
    groups: dict[str, dict[int, list[TensorLocation]]] = {}
    for tensor in checkpoint.tensors:
        for prefix, index in _split_tensor_name_at_numbers(tensor.name):
            groups.setdefault(prefix, {}).setdefault(index, []).append(tensor)
    covering = {
        prefix: group for prefix, group in groups.items() if all(index in group for index in range(count))
    }
    if not covering:
        found = ", ".join(
            f"{prefix}.{min(group)}..{max(group)}" for prefix, group in list(groups.items())[:5]
        )
        raise DataError(
            (
                f"the tensor names contain the layer numbers {found or 'none'}, but config.json has "
                f"{key}={count}, which requires 0..{count - 1}"
            ),
            key=checkpoint.folder,
            code="mismatch",
        )
    outermost = [name for name in covering if not any(name.startswith(f"{outer}.") for outer in covering)]

    def stack_size(
        prefix: str,
    ) -> tuple[bool, int]:  # a vision tower has another number of layers, or is smaller
        layers = covering[prefix]
        return len(layers) == count, sum(tensor.nbytes for layer in layers.values() for tensor in layer)

    stack = max(outermost, key=stack_size)
    numbered = covering[stack]
    layout = ModelLayout(stack, [numbered[index] for index in range(count)])
    for index in sorted(numbered.keys() - range(count)):
        # layers for multi-token prediction have the numbers after the last one
        layout.layers[-1] += numbered[index]
    inside = {tensor.name for layer in layout.layers for tensor in layer}
    parent = _parent_module(stack)
    for tensor in checkpoint.tensors:
        if tensor.name not in inside:
            _assign_non_layer_tensor(tensor, parent, layout)
    if not layout.head and _get_config_value(checkpoint.config, "tie_word_embeddings", True):
        layout.tied = _find_token_embedding(layout.first, parent)
    return layout


def _read_num_layers(checkpoint: Checkpoint) -> tuple[int, str]:
    for key in LAYER_COUNT_KEYS:
        count = _get_config_value(checkpoint.config, key, None)
        if type(count) is int and count >= 1:
            return count, key
    raise DataError(
        f"the number of layers is missing. Add one of these keys: {', '.join(LAYER_COUNT_KEYS)}",
        key=checkpoint.folder / "config.json",
        code="unsupported",
    )


def _get_config_value(config: dict[str, Any], key: str, default: Any) -> Any:
    """Return a value of config.json, or of its section text_config for a multimodal model."""
    text = config.get("text_config")
    return config.get(key, text.get(key, default) if isinstance(text, dict) else default)


def _split_tensor_name_at_numbers(tensor_name: str) -> Iterator[tuple[str, int]]:
    """Yield pairs (prefix, number) for each number in a tensor name: (model.layers, 3) for
    model.layers.3.weight.
    """
    components = tensor_name.split(".")
    for position, word in enumerate(components):
        if word.isascii() and word.isdigit():
            yield ".".join(components[:position]), int(word)


def _assign_non_layer_tensor(tensor: TensorLocation, layers_parent: str, layout: ModelLayout) -> None:
    """Assign a tensor that belongs to no layer to the head, the final norm, or the tensors before the
    layers.
    """
    local = tensor.name.removeprefix(f"{layers_parent}.") if layers_parent else tensor.name
    is_beside_layers = not layers_parent or local != tensor.name
    if HEAD.search(tensor.name):
        layout.head.append(tensor)
    elif is_beside_layers and (FINAL_NORM.match(local) or local.startswith("project_out.")):
        layout.norm.append(tensor)
    else:
        layout.first.append(tensor)


def _find_token_embedding(tensors: list[TensorLocation], layers_parent: str) -> list[TensorLocation]:
    candidates = [tensor for tensor in tensors if TOKEN_EMBEDDING.search(tensor.name)]
    modules = list(dict.fromkeys(_parent_module(tensor.name) for tensor in candidates))
    beside = [module for module in modules if _parent_module(module) == layers_parent]

    def size(module: str) -> int:
        return sum(tensor.nbytes for tensor in candidates if _parent_module(tensor.name) == module)

    chosen = max(beside or modules, key=size, default=None)
    return [tensor for tensor in candidates if _parent_module(tensor.name) == chosen]


def _parent_module(module_path: str) -> str:
    return module_path.rpartition(".")[0]


def classify_tensor(tensor_name: str) -> str:
    """Classify a tensor by its name, for example as attention or mlp."""
    module = ".".join(tensor_name.split(".")[-2:])
    if NORM.search(module):
        return "norm"
    kinds = (("head", HEAD), ("embedding", EMBEDDING), ("attention", ATTENTION), ("mlp", MLP))
    return next((kind for kind, pattern in kinds if pattern.search(tensor_name)), "other")
