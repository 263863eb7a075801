"""The contract of a task. A task is a module; tasks never import each other.

What a task works on stands in `USES`: plans, checks before a load, the job's identity and the number of workers follow
from that alone, so nobody outside asks which task it is.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar, cast

from runner.checkpoints.resolve import Resolved
from runner.config.root import RunnerConfig
from runner.core.result import Result
from runner.engines.base import Engine
from runner.store.jobs import Recorder

Own = TypeVar("Own")


class Uses(StrEnum):
    """What a task works on."""

    weights = "weights"  # loads what the model group names: its hashes count, and memory is checked before
    model_files = "model_files"  # reads files of the model group without loading them
    own_location = "own_location"  # reads what a key of its own names (task.parts), and not the model group
    engine = "engine"  # asks an engine for completions
    machine = "machine"  # measures: machine and versions are part of the job's identity, and it runs alone
    fresh_process = "fresh_process"  # measures in child processes of its own


@dataclass
class Inputs:
    """What a task has read before it runs; a task adds what it needs in a subclass."""

    hashes: dict[str, str]  # name -> SHA-256 of everything read that can change the answer
    # of these and of the config's keys, those in which jobs may differ that take answers over from one another
    ignored_for_reuse: frozenset[str] = field(default=frozenset(), kw_only=True)
    count: int | None = field(default=None, kw_only=True)  # questions or prompts that are put, for an estimate of time
    after: str = field(default="", kw_only=True)  # the id of a job that has to be done before; empty: none
    second: RunnerConfig | None = field(default=None, kw_only=True)  # of a model that is loaded beside the job's own
    data: dict[str, str] = field(default_factory=dict, kw_only=True)  # a data set: name, digest, source_type, source


@dataclass
class Context:
    """What a task gets from the outside while it runs."""

    config: RunnerConfig
    recorder: Recorder
    resolved: Resolved
    engine: Engine  # built at its first use: a job that never asks it never imports torch


class Task(Protocol):
    """What every task module has. Where it applies, a module has one of these functions as well.

    deliver(inputs, config, job, result): hand over what keys outside the identity ask for now and did not ask for then
    preview(inputs, config, resolved): return lines for a plan, without a weight; empty where there are none
    """

    VERSION: int  # raise it when the same completions would be scored or measured differently
    USES: frozenset[Uses]
    FROM_LEDGER: bool  # False: what was true yesterday is done again today

    def prepare(self, config: RunnerConfig) -> Inputs:
        """Read and hash the inputs, once; refuse bad ones before anything is loaded."""
        ...

    def run(self, inputs: Any, context: Context) -> Result:
        """Do the work on what `prepare` returned."""
        ...


def own_config(config: RunnerConfig, kind: type[Own]) -> Own:
    """Return the group `task` of a job's config as the class that the task has for it."""
    assert isinstance(config.task, kind)
    return config.task


def task_of(config: RunnerConfig) -> Task:
    """Import the module that does the work: a job pays for its own task only."""
    return cast(Task, importlib.import_module(config.task.module))
