"""Whether a job fits here, and if not, the cheapest change with which it would; predicted without
loading weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from runner.config.resolved import ResolvedJob
from runner.config.task import TYPICAL_PROMPT_TOKENS, with_possible_batch
from runner.engines.kinds import kind_of
from runner.engines.kinds.local import TYPICAL_ROWS
from runner_base import ConfigError, machine, visible_gpus
from runner_engine import CHOICES, Footprint, RopeConfig
from runner_engine.checkpoints import most_rows
from runner_engine.plan.memory_check import limited
from runner_engine.quantization.base import CheckpointSource

PROCESS_MIB = 600.0  # an interpreter with torch and transformers, before any weights
SMALLER = ("int8", "nf4")  # in the order of trial, the one that loses more last


@dataclass(frozen=True)
class Fit:
    """The memory that a job needs, the free memory, and the change that would help."""

    predicted: Footprint
    rows: int  # concurrent ones
    needed_mib: float  # at least: for one row, if the engine chooses the batch size
    free_mib: Mapping[str, float]
    would_fit: str = ""  # the cheapest change, if it does not fit

    @property
    def fits(self) -> bool:
        """Whether the job's devices have room for it."""
        return self.needed_mib <= sum(self.free_mib.values())

    @property
    def verdict(self) -> str:
        """Yes or no, with the change that would help."""
        if self.fits:
            return "yes"
        return f"no; {self.would_fit}" if self.would_fit else "no"


def free_mib_by_device(device: str, max_memory: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return the free memory for a model by device: of GPUs, or main memory without that of a new
    process."""
    if machine.device_class(device) == "cuda":
        free = {str(number): mib for number, mib in enumerate(visible_gpus.free_mib())}
        if max_memory is None:  # one device
            named = device.partition(":")[2]
            places = [named] if named in free else [] if named else free
            best = max(places, key=lambda gpu: free[gpu], default=None)
            return {} if best is None else {f"GPU {best}": free[best]}
        return limited(free, max_memory)
    return limited({"cpu": max(machine.available_mib() - PROCESS_MIB, 0.0)}, max_memory)


def rows_of(resolved: ResolvedJob) -> int:
    """Return the number of concurrent rows if memory suffices."""
    config, files = resolved.config, resolved.model.files
    amounts = config.task.amounts(config.generation)
    rows = max((amount.rows or 0 for amount in amounts), default=0)
    number_bytes = config.generation.stored_kv.number_bytes(files.dtype_bytes)
    device_rows = most_rows(files.device, number_bytes)
    return rows or min(device_rows, max((amount.completions for amount in amounts), default=TYPICAL_ROWS))


def fit(
    resolved: ResolvedJob, free_mib: Mapping[str, float], fixes: bool = True, read: int | None = None
) -> Fit | None:
    """Predict a job's memory and compare it with the free memory; None if it cannot be predicted.

    `read` is how many questions or prompts it has, if they have been read.
    """
    resolved = possible(resolved, read)
    rows, batch_size = rows_of(resolved), resolved.config.generation.batch_size
    room = sum(free_mib.values())
    predicted, least = (_predict(resolved, count, room) for count in (rows, 1))
    if predicted is None or least is None:
        return None
    kv = least.kv_cache_mib
    if batch_size is None and kv:  # the engine takes as many rows as fit into half of the rest
        affordable = int((room - least.weight_mib) / 2 / kv)
        if 1 <= affordable < rows and (fewer := _predict(resolved, affordable, room)) is not None:
            predicted, rows = fewer, affordable
    result = Fit(predicted, rows, least.total_mib, free_mib)
    if result.fits or not fixes:
        return result
    return replace(result, would_fit=_cheapest(resolved, free_mib))


def _predict(resolved: ResolvedJob, rows: int, room_mib: float) -> Footprint | None:
    config = resolved.config
    return kind_of(config.model).predict(resolved, config.task.workload(config.generation, rows), room_mib)


def possible(resolved: ResolvedJob, read: int | None = None) -> ResolvedJob:
    """Return the job with no more rows than completions, and no longer answers than the model has
    room for."""
    config = resolved.config
    generation = with_possible_batch(config.task, config.generation, read)
    room = resolved.model.files.text_settings.get("max_position_embeddings")
    ends = config.rope.name == RopeConfig.name and not config.rope.beyond_trained
    if isinstance(room, int) and ends and generation.max_new_tokens >= room:
        generation = replace(generation, max_new_tokens=max(room - TYPICAL_PROMPT_TOKENS, 1))
    return resolved.having(generation=generation)


def _cheapest(resolved: ResolvedJob, free_mib: Mapping[str, float]) -> str:
    """Return the cheapest change that makes it fit, as overrides; empty if none does."""
    for override, changed in _changes(resolved):
        changed_fit = fit(changed, free_mib, fixes=False)
        if changed_fit is not None and changed_fit.fits:
            return f"fits with {override} ({changed_fit.needed_mib:,.0f} MiB)"
    return ""


def _changes(resolved: ResolvedJob) -> Iterator[tuple[str, ResolvedJob]]:
    """Yield changes: first fewer rows, which change no answer, then fewer bits."""
    sizes, config = [], resolved.config
    size = config.generation.batch_size or 1
    while size > 1:
        size //= 2
        sizes.append(size)
    for rows in sizes:
        yield f"generation.batch_size={rows}", _with_rows(resolved, rows)
    for name in SMALLER if config.quantization.source is CheckpointSource.plain else ():
        try:
            changed = resolved.having(quantization=CHOICES[name]())
        except ConfigError:  # incompatible with another setting
            continue
        yield f"quantization={name}", changed
        for rows in sizes:
            yield f"quantization={name} generation.batch_size={rows}", _with_rows(changed, rows)


def _with_rows(resolved: ResolvedJob, rows: int) -> ResolvedJob:
    return resolved.having(generation=replace(resolved.config.generation, batch_size=rows))
