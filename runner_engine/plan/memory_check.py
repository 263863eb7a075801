"""Checks before the load whether a model fits into memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base import (
    MIB,
    ConfigError,
    DataError,
    count_digits_to_distinguish_limit,
    fixed_decimals_formatter,
    machine,
    visible_gpus,
)
from runner_base.notes import Note, note
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.plan.footprint import predict_footprint, predict_planned_footprint
from runner_engine.plan.load_plan import LoadPlan
from runner_engine.quantization import CHOICES, SMALLEST
from runner_engine.quantization.base import CheckpointSource
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.speculation import DrafterKind

SPREAD_SHARE = 0.8  # of the memory of several GPUs that a model can fill: layers are not cut
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def check_memory(plan: LoadPlan, free_memory_mib: Mapping[str, float]) -> list[Note]:
    """Raise ConfigError if the weights do not fit into memory.

    Returns a note if only the completions need too much memory.
    """
    resolved, spec, model = plan.resolved, plan.spec, plan.files.model
    if not model.check_memory:
        return []
    try:
        predicted = predict_planned_footprint(plan, spec.workload)
    except DataError:
        return []  # a damaged header: the load reads it, too, and names the tensor
    if predicted is None:
        return []
    free_mib = sum(free_memory_mib.values())
    is_drafted = spec.generation.speculation.kind is DrafterKind.draft
    others = ["of its draft"] * is_drafted + ["of its reference"] * (resolved.second is not None)
    weights = " and ".join(["the weights of this model", *others]) if others else "the weights"
    if predicted.weight_mib > free_mib:
        need, where = _format_required_and_free_mib(predicted.weight_mib, free_memory_mib)
        fixes = [*_suggest_smaller_quantization(resolved, free_mib), "a smaller model"]
        if is_drafted:
            fixes.append("generation.speculate=off")
        if resolved.second is not None:
            fixes.append("task.exact=false (one model at a time)")
        if model.device_map is None and "main memory" not in free_memory_mib:
            fixes.append(render_engine_note(note("spread_over_gpus")))
        raise ConfigError(
            f"model.name={model.name} with quantization={spec.quantization.label}: {weights} need "
            f"{need} MiB, but only {where} are free. Use {', '.join(fixes)}, or "
            "model.check_memory=false to try anyway",
            code="too_large",
        )
    if predicted.total_mib > free_mib:
        need, where = _format_required_and_free_mib(predicted.total_mib, free_memory_mib)
        return [
            note(
                "memory_short",
                need=need,
                weight_mib=predicted.weight_mib,
                kv_cache_mib=predicted.kv_cache_mib,
                activation_mib=predicted.activation_mib,
                free=where,
            )
        ]
    return []


def _format_required_and_free_mib(
    required_mib: float, free_memory_mib: Mapping[str, float]
) -> tuple[str, str]:
    """Format the required and the free MiB with enough digits to show that they differ."""
    write = fixed_decimals_formatter(0)
    more = count_digits_to_distinguish_limit([required_mib], sum(free_memory_mib.values()), write)
    rooms = (f"{write(room_mib, more)} MiB of {place}" for place, room_mib in free_memory_mib.items())
    return write(required_mib, more), " and ".join(rooms)


def _suggest_smaller_quantization(resolved: ResolvedModel, free_mib: float) -> list[str]:
    spec, smallest = resolved.spec, CHOICES[SMALLEST]()
    if spec.quantization.source is not CheckpointSource.plain or spec.lora.merges_adapter:
        return []
    predicted = predict_footprint(resolved.with_quantization(smallest), spec.workload)
    if predicted is None or predicted.weight_mib > free_mib:
        return []
    return [f"quantization={smallest.name} ({predicted.weight_mib:,.0f} MiB)"]


def count_required_gpus(resolved: ResolvedModel, required_mib: float) -> tuple[int, frozenset[int]]:
    """Return how many GPUs a job needs, and which GPU indices its config names.

    A model that model.device_map spreads over GPUs needs enough GPUs to hold the model, or all of
    them.
    """
    models = [one.files.model for one in (resolved, resolved.second) if one is not None]
    models = [model for model in models if machine.resolve_device_class(model.device) == "cuda"]
    named = frozenset(int(index) for model in models if (index := model.device.partition(":")[2]))
    if all(model.device_map is None for model in models):
        return int(bool(models)), named
    if limits := [model.max_memory for model in models if model.max_memory]:
        return max(
            (int(place) for limit in limits for place in limit if place != "cpu"), default=-1
        ) + 1, named
    room, count = 0.0, len(visible_gpus.find_visible_gpus())
    for number, free in enumerate(
        sorted(visible_gpus.measure_free_gpu_memory_mib()), start=1
    ):  # whichever it gets
        room += SPREAD_SHARE * free
        if required_mib <= room:
            return number, named
    return count, named


def limit_free_memory(
    free_mib: Mapping[str, float], max_memory: Mapping[str, str] | None
) -> dict[str, float]:
    if max_memory:  # as in accelerate, a place that is not named gets nothing
        free_mib = {
            place: min(room, parse_size_mib(max_memory.get(place, "0GB"))) for place, room in free_mib.items()
        }
    return {"main memory" if place == "cpu" else f"GPU {place}": room for place, room in free_mib.items()}


def parse_size_mib(size: str) -> float:
    number = size.rstrip("KMGiB")
    return float(number) * UNITS[size[len(number) : -1]] / MIB
