"""The linear layers of a checkpoint, by the names of its tensors, and what a quantization makes of
each; no torch.

One walk over the headers decides: what a plan predicts, what is refused, and what the loader leaves
plain follow from it. Names decide what is a linear layer in the model: where a quantization takes
experts apart (experts.py), each of their matrices is one; else transformers fuses them into one
parameter. Its routers are no linear layers. A checkpoint's own code (model.trust_remote_code) may
keep each expert apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner_base import ConfigError
from runner_engine.checkpoints.experts import ExpertMatrix
from runner_engine.checkpoints.library_rules import OUTSIDE_BLOCKS, is_left_plain, plain_bytes
from runner_engine.checkpoints.resolve import ModelFiles
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.quantization.base import OTHER_LINEAR, QuantizationConfig
from runner_engine.quantization.capabilities import ChecksSizes
from runner_engine.quantization.mixed import Mix
from runner_engine.quantization.share import Share, check_unfit

IN_A_BLOCK = re.compile(r"\.\d+\.")  # model.layers.0.self_attn…, transformer.h.0.…
EXPERT = re.compile(r"(^|\.)experts\.\d+\.")  # one of a mixture, whose matrices are stored apart
ROUTER = re.compile(r"\.(gate|router)(\.(layer|gate))?\.weight$")
# families whose routers are linear layers like others
LINEAR_ROUTERS = frozenset({"afmoe", "dbrx", "jetmoe"})
# by Zamba's blocks: libraries leave plain what transformers ties
SHARED = re.compile(r"\.shared_transf(ormer)?\.")
HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")


@dataclass(frozen=True)
class Walk:
    """What a quantization makes of each tensor of an unquantized checkpoint, by the tensor's
    name."""

    choices: dict[str, QuantizationConfig]  # of those that are quantized
    unfit: dict[str, tuple[str, int]]  # layers that cannot be: why, and their numbers
    share: Share
    left: dict[str, int]  # the numbers in each matrix that stays as it is

    def check_unfit(self, name: str) -> None:
        """Reject layers that cannot be quantized, unless they are few."""
        check_unfit(name, self.unfit, self.share.in_blocks)


def walk(
    tensors: Iterable[Tensor],
    settings: Mapping[str, Any],
    mix: Mix,
    device: str = "cpu",
    fuses_experts: bool = True,
    dtype_bytes: int = 2,
) -> Walk:
    """Decide for each tensor by its name and shape; a layer that does not fit its choice stays
    plain."""
    family = str(settings.get("model_type", ""))
    ties_blocks = fuses_experts and bool(settings.get("tie_word_embeddings", True))
    listed = list(tensors)
    parts = {tensor.name: part_of(tensor, fuses_experts, family) for tensor in listed}
    is_tied = bool(settings.get("tie_word_embeddings")) and "embedding" in parts.values()
    choices: dict[str, QuantizationConfig] = {}
    unfit: dict[str, tuple[str, int]] = {}
    total = in_blocks = named = quantized_bytes = left_bytes = 0
    left: dict[str, int] = {}
    for tensor in listed:
        part, path, is_in_block = (parts[tensor.name], layer_of(tensor), bool(IN_A_BLOCK.search(tensor.name)))
        if part == "head" and is_tied:
            continue  # the same numbers as the embedding's
        total += tensor.params
        in_blocks += tensor.params * is_in_block
        choice = mix.choice_for(path, is_head=part == "head") if part in ("linear", "head") else None
        is_reached = part == "head" or (choice is not None and choice.reaches(family, mix.base.is_mixed))
        is_shared = ties_blocks and SHARED.search(tensor.name)
        is_left = is_shared or is_left_plain(tensor.name, family)
        if choice is not None and choice.packed and is_reached and not is_left:
            outputs, inputs = sizes_of(tensor, settings)
            reason = choice.unfit(outputs, inputs, device) if isinstance(choice, ChecksSizes) else ""
            if not reason:
                choices[tensor.name] = choice
                quantized_bytes += sum(choice.price(outputs, tensor.params, dtype_bytes))
                continue
            unfit[path] = reason, tensor.params
        elif is_in_block and mix.base.is_mixed and not mix.choice_for(path).packed:
            named += tensor.params
        left_bytes += plain_bytes(tensor.name, tensor.params, family, dtype_bytes)
        if len(tensor.shape) > 1:
            left[tensor.name] = tensor.params
    numbers = {tensor.name: tensor.params for tensor in listed}
    quantized = [name for name in choices if IN_A_BLOCK.search(name)]
    share = Share(
        sum(numbers[name] for name in choices),
        total,
        sum(numbers[name] for name in quantized),
        in_blocks,
        named,
        quantized_bytes,
        quantized_bytes + left_bytes,
    )
    return Walk(choices, unfit, share, left)


def walk_files(files: ModelFiles, mix: Mix, device: str) -> Walk:
    """Walk over the headers of a job's model."""
    return walk(files.matrices, files.text_settings, mix, device, files.fuses_experts, files.dtype_bytes)


def are_experts_apart(files: ModelFiles, mix: Mix) -> bool:
    """Whether a load takes experts apart, which it does if it quantizes any of their matrices."""
    matrices = (tensor for tensor in files.matrices if isinstance(tensor, ExpertMatrix))
    return mix.quantizes and any(mix.choice_for(layer_of(matrix)).packed for matrix in matrices)


def held_tensors(files: ModelFiles, mix: Mix) -> list[Tensor]:
    """Return the tensors of a model as it holds them once it is loaded: with experts apart, or as
    they are stored."""
    return files.matrices if are_experts_apart(files, mix) else files.tensors


@dataclass(frozen=True)
class PlainLayers:
    """What a mix leaves in model.dtype."""

    nbytes: int  # of the linear weights in blocks
    share_of_shapes: float  # of all shapes of linear weights, so many have a plain one
    has_quantized_head: bool


def plain_layers(files: ModelFiles, mix: Mix) -> PlainLayers:
    """Count what a mix leaves in model.dtype."""
    layers, heads = linear_layers(held_tensors(files, mix), files.text_settings, files.fuses_experts)
    plain = [tensor for path, tensor in layers.items() if not mix.choice_for(path).packed]
    shapes, plain_shapes = ({tensor.shape for tensor in some} for some in (layers.values(), plain))
    return PlainLayers(
        sum(tensor.params for tensor in plain) * files.dtype_bytes,
        len(plain_shapes) / max(len(shapes), 1),
        any(mix.choice_for(path, is_head=True).packed for path in heads),
    )


def linear_layers(
    tensors: Iterable[Tensor], settings: Mapping[str, Any], fuses_experts: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the linear weights in blocks by the path of their layer, and the head unless it is
    tied."""
    by_part: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        part = part_of(tensor, fuses_experts, settings.get("model_type"))
        if part != "linear" or IN_A_BLOCK.search(tensor.name):
            by_part.setdefault(part, {})[layer_of(tensor)] = tensor
    is_tied = settings.get("tie_word_embeddings") and "embedding" in by_part
    return by_part.get("linear", {}), {} if is_tied else by_part.get("head", {})


def part_of(tensor: Tensor, fuses_experts: bool = True, family: object = "") -> str:
    """Return whether a tensor is a linear weight, an expert's, the embedding, the head or something
    else."""
    if isinstance(tensor, ExpertMatrix):
        return "linear"
    if tensor.name.endswith(HEADS) and not IN_A_BLOCK.search(tensor.name):
        return "head"
    if fuses_experts and len(tensor.shape) == 2 and IN_A_BLOCK.search(tensor.name):
        if EXPERT.search(tensor.name):
            return "expert"
        if ROUTER.search(tensor.name) and family not in LINEAR_ROUTERS:
            return "other"
    if len(tensor.shape) == 2 and tensor.name.endswith(".weight"):
        is_linear = IN_A_BLOCK.search(tensor.name) or OUTSIDE_BLOCKS.search(tensor.name)
        return "linear" if is_linear else "embedding"
    return "other"


def sizes_of(tensor: Tensor, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the outputs and inputs of a linear weight; GPT-2's lies the other way round."""
    first, second = tensor.shape
    is_turned = settings.get("model_type") in OTHER_LINEAR and IN_A_BLOCK.search(tensor.name)
    return (second, first) if is_turned else (first, second)


def first_number(path: str) -> int:
    """Return which part of a layer's path is the number of its block; ConfigError if it is in
    none."""
    number = next((at for at, part in enumerate(path.split(".")) if part.isdigit()), None)
    if number is None:
        raise ConfigError(
            "a linear layer outside of the model's blocks, whose loss is not measured",
            key=path,
            code="unsupported",
        )
    return number


def block_of(path: str) -> str:
    """Return the path of the block that a layer belongs to."""
    return ".".join(path.split(".")[: first_number(path) + 1])


def layer_of(tensor: Tensor) -> str:
    """Return the path of the layer whose weight it is."""
    return tensor.name.removesuffix(".weight")
