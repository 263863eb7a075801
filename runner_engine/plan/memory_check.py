"""Checks whether a job's weights fit into memory, and suggests fixes if they do not; no torch."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base import MIB, ConfigError, DataError, decimals, machine, more_digits, visible_gpus
from runner_base.notes import Note, note
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.plan.footprint import predict, predict_planned
from runner_engine.plan.load_plan import LoadPlan
from runner_engine.quantization import CHOICES, SMALLEST
from runner_engine.quantization.base import CheckpointSource
from runner_engine.render.notes import render
from runner_engine.settings.speculation import Guesser

SPREAD_SHARE = 0.8  # of the memory of several GPUs that a model can fill: layers are not cut
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def check_memory(plan: LoadPlan, rooms_mib: Mapping[str, float]) -> list[Note]:
    """Reject weights that do not fit; return a note if they fit, but not with the memory that
    completions need."""
    resolved, spec, model = plan.resolved, plan.spec, plan.files.model
    if not model.check_memory:
        return []
    try:
        predicted = predict_planned(plan, spec.workload)
    except DataError:
        return []  # a damaged header: the load reads it, too, and names the tensor
    if predicted is None:
        return []
    free_mib = sum(rooms_mib.values())
    is_drafted = spec.generation.speculation.kind is Guesser.draft
    others = ["of its draft"] * is_drafted + ["of its reference"] * (resolved.second is not None)
    weights = " and ".join(["the weights of this model", *others]) if others else "the weights"
    if predicted.weight_mib > free_mib:
        need, where = _beside_rooms(predicted.weight_mib, rooms_mib)
        fixes = [*_smaller(resolved, free_mib), "a smaller model"]
        if is_drafted:
            fixes.append("generation.speculate=off")
        if resolved.second is not None:
            fixes.append("task.exact=false (one model at a time)")
        if model.device_map is None and "main memory" not in rooms_mib:
            fixes.append(render(note("spread_over_gpus")))
        raise ConfigError(
            f"model.name={model.name} with quantization={spec.quantization.label}: {weights} need "
            f"{need} MiB, and {where} are free: use {', '.join(fixes)}, or "
            "model.check_memory=false to try it anyway",
            code="too_large",
        )
    if predicted.total_mib > free_mib:
        need, where = _beside_rooms(predicted.total_mib, rooms_mib)
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


def _beside_rooms(mib: float, rooms_mib: Mapping[str, float]) -> tuple[str, str]:
    """Return what is needed, and which rooms there are, in digits that show that it is more."""
    write = decimals(0)
    more = more_digits([mib], sum(rooms_mib.values()), write)
    rooms = (f"{write(room_mib, more)} MiB of {place}" for place, room_mib in rooms_mib.items())
    return write(mib, more), " and ".join(rooms)


def _smaller(resolved: ResolvedModel, free_mib: float) -> list[str]:
    """Return the smallest quantization as a fix, if the weights would then fit."""
    spec, smallest = resolved.spec, CHOICES[SMALLEST]()
    if spec.quantization.source is not CheckpointSource.plain or spec.lora.merges:
        return []
    predicted = predict(resolved.quantized_by(smallest), spec.workload)
    if predicted is None or predicted.weight_mib > free_mib:
        return []
    return [f"quantization={smallest.name} ({predicted.weight_mib:,.0f} MiB)"]


def gpus_needed(resolved: ResolvedModel, mib: float) -> tuple[int, frozenset[int]]:
    """Return how many GPUs a job needs that takes so much memory, and those that it names by
    number.

    A model that is spread by model.device_map needs as many as hold it, or all of them.
    """
    models = [one.files.model for one in (resolved, resolved.second) if one is not None]
    models = [model for model in models if machine.device_class(model.device) == "cuda"]
    named = frozenset(int(index) for model in models if (index := model.device.partition(":")[2]))
    if all(model.device_map is None for model in models):
        return int(bool(models)), named
    if limits := [model.max_memory for model in models if model.max_memory]:
        return max(
            (int(place) for limit in limits for place in limit if place != "cpu"), default=-1
        ) + 1, named
    room, count = 0.0, len(visible_gpus.visible())
    for number, free in enumerate(sorted(visible_gpus.free_mib()), start=1):  # whichever it gets
        room += SPREAD_SHARE * free
        if mib <= room:
            return number, named
    return count, named


def limited(free_mib: Mapping[str, float], max_memory: Mapping[str, str] | None) -> dict[str, float]:
    """Limit the free memory of each place to model.max_memory, and return it by the place's name in
    messages."""
    if max_memory:  # as in accelerate, a place that is not named gets nothing
        free_mib = {
            place: min(room, size_mib(max_memory.get(place, "0GB"))) for place, room in free_mib.items()
        }
    return {"main memory" if place == "cpu" else f"GPU {place}": room for place, room in free_mib.items()}


def size_mib(size: str) -> float:
    """Turn 3GB, 800MiB and the like into MiB."""
    number = size.rstrip("KMGiB")
    return float(number) * UNITS[size[len(number) : -1]] / MIB
