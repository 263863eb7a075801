"""Which processes there are, and which parts each of them runs. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.options.parts.model_keys import parts_model
from runner.options.parts.sharding.manifest import Manifest, PartEntry, read_manifest
from runner.options.parts.sharding.strategies import part_cuts
from runner_base import ConfigError


@dataclass(frozen=True)
class ProcessRank:
    """Which process of a pipeline this is, of how many, overall and on this machine."""

    rank: int
    processes: int
    local_rank: int
    local_processes: int

    @property
    def is_one_machine(self) -> bool:
        return self.local_processes == self.processes

    @property
    def is_with_first(self) -> bool:
        """Whether this process is on the first process's machine."""
        return self.rank == self.local_rank

    def parts_here(self, manifest: Manifest) -> tuple[PartEntry, ...]:
        """Return the parts that this machine's processes run."""
        cuts, first = part_cuts(manifest, self.processes), self.rank - self.local_rank
        return manifest.parts[cuts[first] : cuts[first + self.local_processes]]


def torchrun_rank() -> ProcessRank | None:
    """Return the rank that torchrun has given this process; None if torchrun has not started it."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = (int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", processes)))
    return ProcessRank(rank, processes, *local)


def first_rank(config: RunnerConfig, manifest: Manifest) -> ProcessRank:
    """Return the rank of the process that runs the job; it starts the others unless torchrun
    has."""
    wanted, started = parts_model(config.model).stages, torchrun_rank()
    if started is None:
        processes = wanted or manifest.num_parts
        return ProcessRank(0, processes, 0, processes)
    if wanted not in (None, started.processes):
        raise ConfigError(
            f"torchrun has started {started.processes} processes: leave it out",
            key="model.stages",
            value=wanted,
            code="conflict",
        )
    return started


def manifest_of(config: RunnerConfig) -> Manifest:
    return read_manifest(parts_model(config.model).name, "model.name")
