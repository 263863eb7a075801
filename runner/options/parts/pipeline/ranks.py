"""Ranks of a pipeline's processes, and the parts that each process runs. Does not import torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from runner.config.root import RunnerConfig
from runner.options.parts.model_keys import as_parts_config
from runner.options.parts.sharding.manifest import Manifest, PartEntry, read_manifest
from runner.options.parts.sharding.strategies import assign_parts_to_processes
from runner_base import ConfigError


@dataclass(frozen=True)
class ProcessRank:
    """Rank of a process and number of processes, in the whole pipeline and on its machine."""

    rank: int
    processes: int
    local_rank: int
    local_processes: int

    @property
    def is_single_machine(self) -> bool:
        return self.local_processes == self.processes

    @property
    def is_on_first_machine(self) -> bool:
        """Whether this process runs on the same machine as the pipeline's first process."""
        return self.rank == self.local_rank

    def list_local_parts(self, manifest: Manifest) -> tuple[PartEntry, ...]:
        cuts, first = assign_parts_to_processes(manifest, self.processes), self.rank - self.local_rank
        return manifest.parts[cuts[first] : cuts[first + self.local_processes]]


def read_torchrun_rank() -> ProcessRank | None:
    """Return the rank that torchrun has assigned to this process, or None if torchrun did not start it."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = (int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", processes)))
    return ProcessRank(rank, processes, *local)


def make_first_process_rank(config: RunnerConfig, manifest: Manifest) -> ProcessRank:
    """Return the rank of the process that runs the job.

    This process starts the other processes, unless torchrun has started them.
    """
    wanted, started = as_parts_config(config.model).stages, read_torchrun_rank()
    if started is None:
        processes = wanted or manifest.num_parts
        return ProcessRank(0, processes, 0, processes)
    if wanted not in (None, started.processes):
        raise ConfigError(
            f"torchrun has already started {started.processes} processes. Omit this key",
            key="model.stages",
            value=wanted,
            code="conflict",
        )
    return started


def load_manifest(config: RunnerConfig) -> Manifest:
    return read_manifest(as_parts_config(config.model).name, "model.name")
