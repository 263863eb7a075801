"""The contract of a task: a module with three constants and two functions. Tasks never import each other."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from runner.config.root import RunnerConfig
from runner.core.result import Result
from runner.engines.base import Engine
from runner.store.jobs import Job, Recorder


class Task(Protocol):
    """What `runner/run.py` needs of a task module."""

    VERSION: int  # raise it when the same completions would be scored or measured differently
    READS_MODEL: bool  # its answer depends on the model's and the adapter's files: their hashes count
    MEASURES: bool  # its numbers depend on the machine, so the machine is part of the job's identity

    def evidence(self, config: RunnerConfig) -> dict[str, str]:
        """Name and SHA-256 of the data it will read; also the place to refuse a bad input before any load."""
        ...

    def execute(self, config: RunnerConfig, engine: Engine, recorder: Recorder) -> Result:
        """Do the work. The engine loads on its first use; a task that needs none never touches it."""
        ...


@runtime_checkable
class Delivers(Protocol):
    """A task with something to hand over besides its record: asked again when the record is there already."""

    def deliver(self, config: RunnerConfig, job: Job, result: Result) -> None:
        """Hand over what inert keys ask for now and did not ask for then."""
        ...


@runtime_checkable
class Previews(Protocol):
    """A task that can say what it would do with this very input, from files' headers alone."""

    def preview(self, config: RunnerConfig) -> str:
        """Return lines for a plan."""
        ...
