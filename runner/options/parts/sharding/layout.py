"""Sorts the tensors of a checkpoint into embedding, layers, final norm and head, by their names on
disk.

Names on disk are not always module names: some families rename tensors at load. Only headers are
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runner_base import DataError
from runner_engine import Tensor
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
class Layout:
    """The tensors of a checkpoint by their place in the model."""

    stack: str  # the prefix of the layer numbers, e.g. model.layers
    layers: list[list[Tensor]]
    # embeddings, and everything else before the layers
    first: list[Tensor] = field(default_factory=list)
    norm: list[Tensor] = field(default_factory=list)
    head: list[Tensor] = field(default_factory=list)
    tied: list[Tensor] = field(default_factory=list)  # the embedding that is also the head


def find_layers(checkpoint: Checkpoint) -> Layout:
    """Sort the tensors by place, from their names and config.json."""
    count, key = _num_layers(checkpoint)
    groups: dict[str, dict[int, list[Tensor]]] = {}
    for tensor in checkpoint.tensors:
        for prefix, index in _numbered(tensor.name):
            groups.setdefault(prefix, {}).setdefault(index, []).append(tensor)
    covering = {
        prefix: group for prefix, group in groups.items() if all(index in group for index in range(count))
    }
    if not covering:
        found = ", ".join(
            f"{prefix}.{min(group)}..{max(group)}" for prefix, group in list(groups.items())[:5]
        )
        raise DataError(
            f"config.json says {key}={count}, but no tensor names are numbered "
            f"0..{count - 1} (found {found or 'no numbers'})",
            key=checkpoint.folder,
            code="mismatch",
        )
    outermost = [name for name in covering if not any(name.startswith(f"{outer}.") for outer in covering)]

    def weight(prefix: str) -> tuple[bool, int]:  # a vision tower has another number of layers, or is smaller
        layers = covering[prefix]
        return len(layers) == count, sum(tensor.nbytes for layer in layers.values() for tensor in layer)

    stack = max(outermost, key=weight)
    numbered = covering[stack]
    layout = Layout(stack, [numbered[index] for index in range(count)])
    for index in sorted(numbered.keys() - range(count)):
        # layers for multi-token prediction have the numbers after the last one
        layout.layers[-1] += numbered[index]
    inside = {tensor.name for layer in layout.layers for tensor in layer}
    parent = _module(stack)
    for tensor in checkpoint.tensors:
        if tensor.name not in inside:
            _place(tensor, parent, layout)
    if not layout.head and _setting(checkpoint.config, "tie_word_embeddings", True):
        layout.tied = _token_embedding(layout.first, parent)
    return layout


def _num_layers(checkpoint: Checkpoint) -> tuple[int, str]:
    for key in LAYER_COUNT_KEYS:
        count = _setting(checkpoint.config, key, None)
        if type(count) is int and count >= 1:
            return count, key
    raise DataError(
        f"names no number of layers ({', '.join(LAYER_COUNT_KEYS)})",
        key=checkpoint.folder / "config.json",
        code="unsupported",
    )


def _setting(config: dict[str, Any], key: str, default: Any) -> Any:
    """Look up a key in config.json, or in the part for the text model of a multimodal one."""
    text = config.get("text_config")
    return config.get(key, text.get(key, default) if isinstance(text, dict) else default)


def _numbered(name: str) -> Iterator[tuple[str, int]]:
    """Yield (prefix, number) for every number among the components of a tensor's name."""
    components = name.split(".")
    for position, word in enumerate(components):
        if word.isascii() and word.isdigit():
            yield ".".join(components[:position]), int(word)


def _place(tensor: Tensor, parent: str, layout: Layout) -> None:
    """Assign a tensor outside the layers to the head, the final norm, or the tensors before the
    layers."""
    local = tensor.name.removeprefix(f"{parent}.") if parent else tensor.name
    is_beside_layers = not parent or local != tensor.name
    if HEAD.search(tensor.name):
        layout.head.append(tensor)
    elif is_beside_layers and (FINAL_NORM.match(local) or local.startswith("project_out.")):
        layout.norm.append(tensor)
    else:
        layout.first.append(tensor)


def _token_embedding(tensors: list[Tensor], parent: str) -> list[Tensor]:
    """Return all tensors of the token embedding: the one beside the layers, else the largest one
    anywhere."""
    candidates = [tensor for tensor in tensors if TOKEN_EMBEDDING.search(tensor.name)]
    modules = list(dict.fromkeys(_module(tensor.name) for tensor in candidates))
    beside = [module for module in modules if _module(module) == parent]

    def size(module: str) -> int:
        return sum(tensor.nbytes for tensor in candidates if _module(tensor.name) == module)

    chosen = max(beside or modules, key=size, default=None)
    return [tensor for tensor in candidates if _module(tensor.name) == chosen]


def _module(name: str) -> str:
    """Return the module of a name: all but its last component."""
    return name.rpartition(".")[0]


def layer_type(name: str) -> str:
    """Return the kind of layer that a tensor belongs to, by its name."""
    module = ".".join(name.split(".")[-2:])
    if NORM.search(module):
        return "norm"
    kinds = (("head", HEAD), ("embedding", EMBEDDING), ("attention", ATTENTION), ("mlp", MLP))
    return next((kind for kind, pattern in kinds if pattern.search(name)), "other")
