"""Applies a `.pth` adapter to square layers, `y = W x + B(A(x))`, either merged or with forward hooks.

Only tensors are read from the file; no code in it runs. Its keys are `{module path}.lora.A.weight`
[r, d] and `{module path}.lora.B.weight` [d, r], some with the prefix `module.`. Everything is
checked before the base is changed. The hooks can be removed again; merging cannot be undone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from runner_base import ConfigError, join_first_names
from runner_base.notes import Note, note
from runner_engine.models.lora import unmerged
from runner_engine.models.lora.adapter_report import AdapterReport, compute_lora_delta_norm
from runner_engine.models.pickle_reading import load_pickled_tensors
from runner_engine.settings.lora import PthConfig

KEY = re.compile(r"(?P<path>.+)\.lora\.(?P<side>[AB])\.weight")
PREFIX = "module."  # DistributedDataParallel puts it before every key
EXPECTED = "{module path}.lora.A.weight and {module path}.lora.B.weight"


class MatrixPair(NamedTuple):
    """The two LoRA matrices of one module: a [r, d] and b [d, r]."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class PthAdapter:
    """The LoRA matrix pairs of a `.pth` adapter by module path, all with the same rank."""

    pairs: dict[str, MatrixPair]
    rank: int
    notes: tuple[Note, ...] = ()


def read_pth_adapter(file: Path, label: str, rank: int | None = None) -> PthAdapter:
    """Read a `.pth` adapter, but run no code in the file. Error messages call the adapter `label`."""
    sides: dict[str, dict[str, Tensor]] = {}
    other_keys = []
    tensors, notes = load_pickled_tensors(file, label)
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key.removeprefix(PREFIX))
        if match is None:
            other_keys.append(key)
        elif match["side"] in sides.setdefault(match["path"], {}):
            raise ConfigError(
                f"{match['path']}.lora.{match['side']} occurs twice: with and without the prefix {PREFIX}",
                key=label,
                code="damaged",
            )
        else:
            sides[match["path"]][match["side"]] = _require_matrix(tensor, key, label)
    if not sides:
        raise ConfigError(
            f"{label} contains no LoRA key. Expected {EXPECTED}, but found {join_first_names(other_keys)}",
            code="damaged",
        )
    if other_keys:
        raise ConfigError(
            f"{len(other_keys)} keys are not LoRA keys ({EXPECTED}): {join_first_names(other_keys)}",
            key=label,
            code="damaged",
        )
    for path, matrices in sides.items():
        if len(matrices) == 1:
            (side,) = matrices
            other = "B" if side == "A" else "A"
            raise ConfigError(
                f"the file is incomplete: {path} has matrix {side} but not {other}", key=label, code="damaged"
            )
    pairs = {path: MatrixPair(matrices["A"], matrices["B"]) for path, matrices in sides.items()}
    return PthAdapter(pairs, get_shared_lora_rank(pairs, label, rank), notes)


def _require_matrix(tensor: Any, tensor_name: str, label: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ConfigError(
            f"{tensor_name} must be a tensor, but is a {type(tensor).__name__}", key=label, code="damaged"
        )
    if tensor.layout is not torch.strided or not tensor.is_floating_point() or tensor.dim() != 2:
        raise ConfigError(
            f"{tensor_name} must be a floating-point matrix, but is {tensor.dtype} "
            f"with shape {list(tensor.shape)}",
            key=label,
            code="damaged",
        )
    return tensor.detach()


def get_shared_lora_rank(
    lora_pairs: dict[str, MatrixPair], label: str, expected_rank: int | None = None
) -> int:
    """Return the rank that all matrix pairs share. Raises ConfigError if ranks differ, or differ
    from `expected_rank`.
    """
    first_path, first = next(iter(lora_pairs.items()))
    rank = first.a.shape[0]
    for path, (a, b) in lora_pairs.items():
        if a.shape[0] != b.shape[1]:
            raise ConfigError(
                f"{path} needs A [r, d] and B [d, r], but has A {list(a.shape)} and B {list(b.shape)}",
                key=label,
                code="damaged",
            )
        if a.shape[0] != rank:
            raise ConfigError(
                f"all modules need the same rank, but {first_path} has {rank} and {path} has {a.shape[0]}",
                key=label,
                code="damaged",
            )
    if rank == 0:
        raise ConfigError(f"{label} changes nothing: its rank is 0", code="no_effect")
    if expected_rank not in (None, rank):
        raise ConfigError(
            f"lora.rank={expected_rank}, but {label} has rank {rank}. "
            f"Use lora.rank={rank}, or omit lora.rank",
            code="mismatch",
        )
    return rank


def match_adapter_layers(
    adapter: PthAdapter, base_model: nn.Module, label: str, base_name: str
) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """Find the model layer of each matrix pair. Returns the layers by path, and notes.

    Raises ConfigError if a pair fits no layer.
    """
    modules = dict(base_model.named_modules())
    missing = [path for path in adapter.pairs if not _is_linear(modules.get(path))]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(adapter.pairs)} modules are not linear layers of {base_name}: "
            f"{join_first_names(missing)}. The base model's square layers are "
            f"{join_first_names(_find_square_layers(modules)) or 'none'}",
            key=label,
            code="not_found",
        )
    oblong = [path for path in adapter.pairs if modules[path].in_features != modules[path].out_features]
    if oblong:
        layer, (a, b) = modules[oblong[0]], adapter.pairs[oblong[0]]
        raise ConfigError(
            f"a .pth adapter supports only square layers, but {len(oblong)} of its {len(adapter.pairs)} "
            f"modules are not square in {base_name}: {join_first_names(oblong)}. The first is "
            f"{[layer.out_features, layer.in_features]}, with A {list(a.shape)} and B {list(b.shape)}",
            key=label,
            code="unsupported",
        )
    for path, (a, b) in adapter.pairs.items():
        inputs, outputs = modules[path].in_features, modules[path].out_features
        if (a.shape[1], b.shape[0]) != (inputs, outputs):
            raise ConfigError(
                f"size mismatch for {path}: A {list(a.shape)} and B {list(b.shape)} need shape "
                f"{[b.shape[0], a.shape[1]]}, but the layer of {base_name} is {[outputs, inputs]}",
                key=label,
                code="mismatch",
            )
    bare = [path for path in _find_square_layers(modules) if path not in adapter.pairs]
    notes = (note("layers_left", count=len(bare), layers=join_first_names(bare)),) if bare else ()
    return {path: modules[path] for path in adapter.pairs}, notes


def check(lora: PthConfig, file: Path, meta_model: nn.Module | None, base_name: str) -> None:
    """Raise ConfigError for an invalid adapter, before the weights of the base model are read."""
    label = lora.label
    adapter = read_pth_adapter(file, label, lora.rank)
    compute_and_check_lora_delta_norm(adapter, label, base_name)
    if meta_model is not None:
        match_adapter_layers(adapter, meta_model, label, base_name)


def adapted_paths(lora: PthConfig, file: Path) -> list[str]:
    return [*read_pth_adapter(file, lora.label, lora.rank).pairs]


def apply(base: Any, lora: PthConfig, file: Path, base_name: str) -> tuple[Any, AdapterReport]:
    """Apply the adapter in `file` to a base model, either merged or with forward hooks. Returns the
    model and a report.
    """
    label = lora.label
    adapter = read_pth_adapter(file, label, lora.rank)
    layers, notes = match_adapter_layers(adapter, base, label, base_name)
    norm = compute_and_check_lora_delta_norm(adapter, label, base_name)
    if lora.merge:
        packed = [path for path, layer in layers.items() if not _has_mergeable_weight(layer)]
        if packed:
            raise ConfigError(
                f"{len(packed)} layers of {base_name} are quantized ({join_first_names(packed)}). Merging "
                "into quantized weights loses precision. Use lora.merge=false",
                key="lora.merge",
                value="true",
                code="conflict",
            )
    for path, layer in layers.items():
        pair = adapter.pairs[path]
        if lora.merge:
            merge_lora_pair(layer, pair)
        else:
            unmerged.attach_lora_matrices(layer, pair.a, pair.b)
    parameters = sum(pair.a.numel() + pair.b.numel() for pair in adapter.pairs.values())
    return base, AdapterReport(len(layers), adapter.rank, parameters, norm, (*adapter.notes, *notes))


def compute_and_check_lora_delta_norm(
    adapter: PthAdapter, label: str, base_name: str, scalings: Mapping[str, float] | None = None
) -> float:
    """Return the norm of the weight changes B A of all layers. Raises ConfigError if the norm is 0
    or not finite.
    """
    by_path = scalings or {}
    norm = compute_lora_delta_norm(
        (pair.a, pair.b, by_path.get(path, 1.0)) for path, pair in adapter.pairs.items()
    )
    if not norm < float("inf"):
        raise ConfigError(
            f"{label} contains NaN or infinity: the norm of its weight change is {norm}", code="damaged"
        )
    if norm == 0:
        matched = f"{len(adapter.pairs)} modules match, but the norm of the weight change is 0"
        raise ConfigError(f"{label} changes nothing in {base_name}: {matched}", code="no_effect")
    return norm


def merge_lora_pair(layer: Any, pair: MatrixPair) -> None:
    """Add the product B A to a layer's weight.

    Other layers that share the weight tensor keep the unchanged weight.
    """
    weight = layer.weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    a, b = (matrix.to(weight.device, dtype) for matrix in pair)
    layer.weight = nn.Parameter((weight.detach().to(dtype) + b @ a).to(weight.dtype), requires_grad=False)


def remove(model: nn.Module) -> bool:
    return unmerged.detach_lora_matrices(model)


def _is_linear(module: Any) -> bool:
    sizes = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return all(isinstance(size, int) for size in sizes)


def _find_square_layers(modules: dict[str, Any]) -> list[str]:
    return [path for path, one in modules.items() if _is_linear(one) and one.in_features == one.out_features]


def _has_mergeable_weight(layer: Any) -> bool:
    weight = getattr(layer, "weight", None)
    known = isinstance(layer, nn.Linear) and not type(layer).__module__.startswith("bitsandbytes.")
    return (
        known and type(weight) is nn.Parameter and type(weight.data) is Tensor and weight.is_floating_point()
    )
