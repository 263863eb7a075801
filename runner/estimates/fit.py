"""Whether a job fits here, and the cheapest change with which it would; from predictions, without a weight."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from runner.checkpoints.footprint import Footprint
from runner.checkpoints.memory_check import limited
from runner.checkpoints.pass_memory import most_rows
from runner.checkpoints.resolve import Resolved
from runner.config.root import RunnerConfig
from runner.core import machine
from runner.core.errors import ConfigError
from runner.engines.kinds import kind_of
from runner.engines.kinds.local import TYPICAL_ROWS
from runner.quantization import CHOICES
from runner.quantization.base import CheckpointSource

PROCESS_MIB = 600.0  # an interpreter with torch and transformers, before any weights
SMALLER = ("int8", "nf4")  # what to try, the costlier last
SMI = ("--query-gpu=memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Fit:
    """What a job would need, where it would stand, and what would help."""

    predicted: Footprint
    rows: int  # at once
    needed_mib: float  # at least: where the engine chooses the rows, one will do
    rooms_mib: Mapping[str, float]
    would_fit: str = ""  # the cheapest change, where it does not

    @property
    def fits(self) -> bool:
        """Whether there is room in the place that the job goes to."""
        return self.needed_mib <= sum(self.rooms_mib.values())

    @property
    def said(self) -> str:
        """Say it in a word or two, and what would help."""
        if self.fits:
            return "yes"
        return f"no; {self.would_fit}" if self.would_fit else "no"


def rooms(device: str, max_memory: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return what is free in the places that a model may go to: the GPUs', or main memory's without a new process."""
    if machine.device_class(device) == "cuda":
        free = {str(number): mib for number, mib in enumerate(gpus_free_mib())}
        if max_memory is None:  # one device
            best = max(free, key=lambda place: free[place], default=None)
            return {} if best is None else {f"GPU {best}": free[best]}
        return limited(free, max_memory)
    return limited({"cpu": max(machine.available_mib() - PROCESS_MIB, 0.0)}, max_memory)


def gpus_free_mib() -> list[float]:
    """Return what each GPU has free, as the driver's own tool says; nothing where there is none."""
    if not machine.gpu_models() or shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", *SMI], capture_output=True, text=True, check=False, timeout=20)
    return [float(line) for line in done.stdout.split() if line.replace(".", "").isdigit()]


def rows_of(config: RunnerConfig, resolved: Resolved) -> int:
    """Return how many rows are on their way at once, as far as there is room for all."""
    asked = config.task.amounts(config.generation)
    rows = max((amount.rows or 0 for amount in asked), default=0)
    most = most_rows(machine.device_class(resolved.model.device), resolved.dtype_bytes)
    return rows or min(most, max((amount.completions for amount in asked), default=TYPICAL_ROWS))


def fit(config: RunnerConfig, resolved: Resolved, rooms_mib: Mapping[str, float], fixes: bool = True) -> Fit | None:
    """Predict a job and compare it with what is free; None where nothing can be predicted."""
    rows = rows_of(config, resolved)
    room = sum(rooms_mib.values())
    predicted, least = (_predict(config, resolved, some, room) for some in (rows, 1))
    if predicted is None or least is None:
        return None
    kv = least.kv_cache_mib
    if config.generation.batch_size is None and kv:  # the engine takes as many as half of the rest has room for
        affordable = int((room - least.weight_mib) / 2 / kv)
        if 1 <= affordable < rows and (fewer := _predict(config, resolved, affordable, room)) is not None:
            predicted, rows = fewer, affordable
    found = Fit(predicted, rows, least.total_mib, rooms_mib)
    if found.fits or not fixes:
        return found
    return replace(found, would_fit=_cheapest(config, resolved, rooms_mib))


def _predict(config: RunnerConfig, resolved: Resolved, rows: int, room_mib: float) -> Footprint | None:
    return kind_of(config.model).predict(config, resolved, config.task.workload(config.generation, rows), room_mib)


def _cheapest(config: RunnerConfig, resolved: Resolved, rooms_mib: Mapping[str, float]) -> str:
    """Return the first change that makes it fit, those that cost least first, as overrides; empty: none does."""
    for words, changed in _changes(config):
        found = fit(changed, resolved, rooms_mib, fixes=False)
        if found is not None and found.fits:
            return f"fits with {words} ({found.needed_mib:,.0f} MiB)"
    return ""


def _changes(config: RunnerConfig) -> Iterator[tuple[str, RunnerConfig]]:
    """Yield changes: fewer rows first, which change no answer, then fewer bits."""
    sizes = []
    size = config.generation.batch_size or 1
    while size > 1:
        size //= 2
        sizes.append(size)
    for rows in sizes:
        yield f"generation.batch_size={rows}", _with_rows(config, rows)
    for name in SMALLER if config.quantization.source is CheckpointSource.plain else ():
        try:
            changed = replace(config, quantization=CHOICES[name]())
        except ConfigError:  # it does not go together with what else is asked for
            continue
        yield f"quantization={name}", changed
        for rows in sizes:
            yield f"quantization={name} generation.batch_size={rows}", _with_rows(changed, rows)


def _with_rows(config: RunnerConfig, rows: int) -> RunnerConfig:
    return replace(config, generation=replace(config.generation, batch_size=rows))
