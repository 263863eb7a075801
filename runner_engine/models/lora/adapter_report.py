"""Reports which modules an adapter changes, and how much it changes the weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from runner_base.notes import Note


@dataclass(frozen=True)
class AdapterReport:
    """Describes an applied adapter: modules, rank, parameter count and norm of the weight change."""

    modules: int
    rank: int
    parameters: int
    delta_norm: float  # Frobenius norm of all scaling * B @ A together
    notes: tuple[Note, ...]
    besides: tuple[str, ...] = ()  # what else it is or changes, in words
    merge_s: float = 0.0  # what merging it took, without importing PEFT


class ScaledPair(NamedTuple):
    """The LoRA matrices A [r, in] and B [out, r] of one layer or expert, and their scaling factor."""

    a: Tensor
    b: Tensor
    scaling: float


def compute_lora_delta_norm(lora_pairs: Iterable[tuple[Tensor, Tensor, float]]) -> float:
    """Return the Frobenius norm of the weight changes scaling * B @ A of all layers."""
    squares = 0.0
    for a, b, scaling in lora_pairs:
        # |BA|² = tr((BᵀB)(AAᵀ)): r×r products instead of the full delta
        a, b = a.detach().float(), b.detach().float()
        squares += float(((b.T @ b) * (a @ a.T).T).sum()) * scaling**2
    return float(max(squares, 0.0) ** 0.5)


def describe_peft_adapter(model: Any, notes: tuple[Note, ...]) -> AdapterReport:
    layers = [module for module in model.modules() if _has_lora_matrices(module)]
    pairs = [pair for layer in layers for pair in _list_lora_pairs(layer)]
    besides, more = _describe_non_lora_parameters(model)
    parameters = sum(pair.a.numel() + pair.b.numel() for pair in pairs) + more
    rank = max((len(pair.a) for pair in pairs), default=0)
    return AdapterReport(len(layers), rank, parameters, compute_lora_delta_norm(pairs), notes, besides)


def _has_lora_matrices(module: Any) -> bool:
    """Whether a PEFT module has LoRA matrices for a linear layer, an embedding or a single parameter."""
    return bool(getattr(module, "lora_A", None) or getattr(module, "lora_embedding_A", None))


def _list_lora_pairs(layer: Any) -> list[ScaledPair]:
    """Return the LoRA matrix pairs of a layer. The pair of fused experts is split into one pair per
    expert.
    """
    pairs = [
        ScaledPair(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
        for name in layer.lora_A
    ]
    pairs += [
        ScaledPair(a, layer.lora_embedding_B[name], layer.scaling[name])
        for name, a in layer.lora_embedding_A.items()
    ]
    experts = getattr(layer, "num_experts", 1)
    if experts == 1:
        return pairs
    apart = []
    for a, b, scaling in pairs:
        a_of, b_of = a.reshape(experts, -1, a.shape[1]), b.reshape(len(b), -1, experts)
        apart += [ScaledPair(a_of[number], b_of[..., number], scaling) for number in range(experts)]
    return apart


def _describe_non_lora_parameters(model: Any) -> tuple[tuple[str, ...], int]:
    words, numbers = [], 0
    configs = model.peft_config.values()
    words += ["DoRA"] if any(config.use_dora for config in configs) else []
    words += ["rank-stabilised"] if any(config.use_rslora for config in configs) else []
    words += [f"biases of {config.bias.removeprefix('lora_')}" for config in configs if config.bias != "none"]
    saved, tokens = [], 0
    for path, module in model.named_modules():
        if (whole := getattr(module, "modules_to_save", None)) and hasattr(module, "original_module"):
            saved.append(path.rpartition(".")[2])
            numbers += sum(parameter.numel() for parameter in whole.parameters())
        elif type(module).__name__ == "TrainableTokensLayer":
            rows = [*module.trainable_tokens_delta.values()]
            tokens += sum(map(len, rows))
            numbers += sum(row.numel() for row in rows)
    words += [f"{', '.join(dict.fromkeys(saved))} whole"] if saved else []
    words += [f"{tokens} tokens of the vocabulary"] if tokens else []
    return tuple(words), numbers
