"""Predicts, without loading weights, whether a job fits into memory and, if not, which change would
make it fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from runner.config.resolved import ResolvedJob
from runner.config.task import TYPICAL_PROMPT_TOKENS, limit_batch_size
from runner.engines.kinds import get_model_kind
from runner.engines.kinds.local import TYPICAL_ROWS
from runner_base import ConfigError, machine, visible_gpus
from runner_engine import CHOICES, Footprint, RopeConfig
from runner_engine.checkpoints import compute_max_sequences
from runner_engine.plan.memory_check import limit_free_memory
from runner_engine.quantization.base import CheckpointSource

PROCESS_MIB = 600.0  # an interpreter with torch and transformers, before any weights
SMALLER = ("int8", "nf4")  # in the order of trial, the one that loses more last


@dataclass(frozen=True)
class MemoryFit:
    """A job's predicted memory, the free memory, and the change that would make the job fit."""

    predicted: Footprint
    rows: int  # concurrent ones
    needed_mib: float  # at least: for one row, if the engine chooses the batch size
    free_mib: Mapping[str, float]
    would_fit: str = ""  # the cheapest change, if it does not fit
    max_prompt_cache_mib: float = (
        0.0  # for earlier prompts: of free memory, which sequences get when they need it
    )

    @property
    def is_possible(self) -> bool:
        return self.needed_mib <= sum(self.free_mib.values())

    @property
    def verdict(self) -> str:
        """`yes`, or `no` with the change that makes the job fit."""
        if self.is_possible:
            return "yes"
        return f"no; {self.would_fit}" if self.would_fit else "no"


def get_free_mib_by_device(device: str, max_memory: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return the free memory in MiB of each device that a model may use.

    The memory that the process itself needs is subtracted.
    """
    if machine.resolve_device_class(device) == "cuda":
        free = {str(number): mib for number, mib in enumerate(visible_gpus.measure_free_gpu_memory_mib())}
        if max_memory is None:  # one device
            named = device.partition(":")[2]
            places = [named] if named in free else [] if named else free
            best = max(places, key=lambda gpu: free[gpu], default=None)
            return {} if best is None else {f"GPU {best}": free[best]}
        return limit_free_memory(free, max_memory)
    return limit_free_memory({"cpu": max(machine.available_memory_mib() - PROCESS_MIB, 0.0)}, max_memory)


def count_concurrent_sequences(resolved: ResolvedJob) -> int:
    """Return the number of sequences that are decoded together if memory suffices."""
    config, files = resolved.config, resolved.model.files
    amounts = config.task.list_requested_completions(config.generation)
    rows = max((amount.rows or 0 for amount in amounts), default=0)
    number_bytes = config.generation.kv_cache_config.get_bytes_per_number(files.dtype_bytes)
    device_rows = compute_max_sequences(files.device, number_bytes)
    return rows or min(device_rows, max((amount.completions for amount in amounts), default=TYPICAL_ROWS))


def predict_memory_fit(
    resolved: ResolvedJob,
    free_mib: Mapping[str, float],
    should_find_fix: bool = True,
    num_questions: int | None = None,
) -> MemoryFit | None:
    """Compare a job's predicted memory with the free memory. None if the memory cannot be predicted."""
    resolved = limit_batch_and_answer_length(resolved, num_questions)
    rows, batch_size = count_concurrent_sequences(resolved), resolved.config.generation.batch_size
    room = sum(free_mib.values())
    predicted, least = (_predict_footprint(resolved, count, room) for count in (rows, 1))
    if predicted is None or least is None:
        return None
    kv = least.kv_cache_mib
    if batch_size is None and kv:  # the engine takes as many rows as fit into half of the rest
        affordable = int((room - least.weight_mib) / 2 / kv)
        if 1 <= affordable < rows and (fewer := _predict_footprint(resolved, affordable, room)) is not None:
            predicted, rows = fewer, affordable
    cache_mib = get_model_kind(resolved.config.model).predict_max_prompt_cache_mib(resolved, predicted, room)
    result = MemoryFit(predicted, rows, least.total_mib, free_mib, max_prompt_cache_mib=cache_mib)
    if result.is_possible or not should_find_fix:
        return result
    return replace(result, would_fit=_find_cheapest_memory_fix(resolved, free_mib))


def _predict_footprint(resolved: ResolvedJob, batch_size: int, available_mib: float) -> Footprint | None:
    config = resolved.config
    return get_model_kind(config.model).predict_memory(
        resolved, config.task.workload(config.generation, batch_size), available_mib
    )


def limit_batch_and_answer_length(resolved: ResolvedJob, num_questions: int | None = None) -> ResolvedJob:
    """Limit the batch size to the number of completions, and the answer length to the context length."""
    config = resolved.config
    generation = limit_batch_size(config.task, config.generation, num_questions)
    room = resolved.model.files.text_settings.get("max_position_embeddings")
    ends = config.rope.name == RopeConfig.name and not config.rope.beyond_trained
    if isinstance(room, int) and ends and generation.max_new_tokens >= room:
        generation = replace(generation, max_new_tokens=max(room - TYPICAL_PROMPT_TOKENS, 1))
    return resolved.copy_with_changed_config_groups(generation=generation)


def _find_cheapest_memory_fix(resolved: ResolvedJob, free_mib: Mapping[str, float]) -> str:
    """Return the overrides of the least costly change that makes the job fit into memory. Empty if none
    does.
    """
    for override, changed in _iterate_candidate_memory_fixes(resolved):
        changed_fit = predict_memory_fit(changed, free_mib, should_find_fix=False)
        if changed_fit is not None and changed_fit.is_possible:
            return f"fits with {override} ({changed_fit.needed_mib:,.0f} MiB)"
    return ""


def _iterate_candidate_memory_fixes(resolved: ResolvedJob) -> Iterator[tuple[str, ResolvedJob]]:
    sizes, config = [], resolved.config
    size = config.generation.batch_size or 1
    while size > 1:
        size //= 2
        sizes.append(size)
    for rows in sizes:
        yield f"generation.batch_size={rows}", _with_batch_size(resolved, rows)
    for name in SMALLER if config.quantization.source is CheckpointSource.plain else ():
        try:
            changed = resolved.copy_with_changed_config_groups(quantization=CHOICES[name]())
        except ConfigError:  # incompatible with another setting
            continue
        yield f"quantization={name}", changed
        for rows in sizes:
            yield f"quantization={name} generation.batch_size={rows}", _with_batch_size(changed, rows)


def _with_batch_size(resolved: ResolvedJob, batch_size: int) -> ResolvedJob:
    return resolved.copy_with_changed_config_groups(
        generation=replace(resolved.config.generation, batch_size=batch_size)
    )
