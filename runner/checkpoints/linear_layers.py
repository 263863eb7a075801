"""The linear layers of a checkpoint, by the names of its tensors, and which of them a mix leaves plain; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.checkpoints.resolve import ModelFiles
from runner.checkpoints.weight_files import Tensor
from runner.core.errors import ConfigError
from runner.quantization.mixed import Mix

IN_A_BLOCK = re.compile(r"\.\d+\.")  # model.layers.0.self_attn…, transformer.h.0.…
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True)
class PlainLayers:
    """What a mix leaves in model.dtype."""

    nbytes: int  # of the linear weights in blocks
    share_of_shapes: float  # of all shapes of linear weights, so many have a plain one
    has_quantized_head: bool


def plain_layers(files: ModelFiles, mix: Mix) -> PlainLayers:
    """Count what a mix leaves in model.dtype."""
    layers, heads = linear_layers(files.tensors, files.text_settings)
    plain = [tensor for path, tensor in layers.items() if not mix.choice_for(path).packed]
    shapes, plain_shapes = ({tensor.shape for tensor in some} for some in (layers.values(), plain))
    return PlainLayers(
        sum(tensor.params for tensor in plain) * files.dtype_bytes,
        len(plain_shapes) / max(len(shapes), 1),
        any(mix.choice_for(path, is_head=True).packed for path in heads),
    )


def linear_layers(
    tensors: Iterable[Tensor], settings: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the linear weights in blocks by the path of their layer, and the head unless it is tied."""
    by_part: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        by_part.setdefault(part_of(tensor), {})[layer_of(tensor)] = tensor
    is_tied = settings.get("tie_word_embeddings") and "embedding" in by_part
    return by_part.get("linear", {}), {} if is_tied else by_part.get("head", {})


def part_of(tensor: Tensor) -> str:
    """Return whether a tensor is a linear weight, the embedding, the head or something else."""
    if tensor.name.endswith(HEADS) and not IN_A_BLOCK.search(tensor.name):
        return "head"
    if len(tensor.shape) == 2 and tensor.name.endswith(".weight"):
        return "linear" if IN_A_BLOCK.search(tensor.name) else "embedding"
    return "other"


def first_number(path: str) -> int:
    """Return which part of a layer's path is the number of its block; ConfigError if it is in none."""
    number = next((at for at, part in enumerate(path.split(".")) if part.isdigit()), None)
    if number is None:
        raise ConfigError(f"{path}: a linear layer outside of the model's blocks, whose loss is not measured")
    return number


def block_of(path: str) -> str:
    """Return the path of the block that a layer belongs to."""
    return ".".join(path.split(".")[: first_number(path) + 1])


def layer_of(tensor: Tensor) -> str:
    """Return the path of the layer whose weight it is."""
    return tensor.name.removesuffix(".weight")
