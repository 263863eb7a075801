"""The contract of a task. A task is a module; tasks never import each other.

`USES` names what a task works on. Plans, checks before a load, the job's identity and the number of
workers follow from it alone, so no code outside of this folder asks which task it is.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Protocol, TypeVar, cast

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner.records.jobs import Recorder
from runner_base import Result
from runner_engine import Engine

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
    # the hashes and config keys in which two jobs may differ and still reuse each other's answers
    ignored_for_reuse: frozenset[str] = field(default=frozenset(), kw_only=True)
    # config keys that count as if so set
    usual_for_reuse: dict[str, Any] = field(default_factory=dict, kw_only=True)
    # questions or prompts, for an estimate of time
    count: int | None = field(default=None, kw_only=True)
    after: str = field(default="", kw_only=True)  # the id of a job that must run first; empty: none
    # the overrides that make that job of this one; empty if it is named by its id: nobody knows
    # what it asks
    after_overrides: list[str] = field(default_factory=list, kw_only=True)
    # with another job while it runs, at a share of the 5 %
    is_compared: bool = field(default=False, kw_only=True)
    # of a model that is loaded beside the job's own
    second: RunnerConfig | None = field(default=None, kw_only=True)
    # keys of the task that the user has left open, with the values that they have now
    decided: dict[str, Any] = field(default_factory=dict, kw_only=True)
    # a data set: name, digest, source_type, source
    data: dict[str, str] = field(default_factory=dict, kw_only=True)


@dataclass
class Context:
    """What a task gets from the outside while it runs."""

    recorder: Recorder
    resolved: ResolvedJob
    engine: Engine  # built at its first use: a job that never uses it never imports torch

    @property
    def config(self) -> RunnerConfig:
        """The job's config."""
        return self.resolved.config


class Task(Protocol):
    """What every task module has. A module may also have these functions.

    deliver(inputs, resolved, job, result): for a recorded job, do what keys outside of its identity
    ask for now questions_left(inputs, job): how many of its questions no job on disk has answered
    yet, for a plan check_lengths(inputs, resolved): reject what the model has no room for, before
    it is loaded; return notes preview(inputs, resolved): return lines for a plan, without loading
    weights; may be empty is_compared(config): `Inputs.is_compared` of a job whose inputs are not
    here yet, as far as its keys tell
    """

    VERSION: int  # raise it when the same completions would be scored or measured differently
    USES: frozenset[Uses]
    FROM_LEDGER: bool  # False: a recorded result is not reused, the job runs again

    def prepare(self, config: RunnerConfig) -> Inputs:
        """Read and hash the inputs, once; reject bad ones before anything is loaded."""
        ...

    def run(self, inputs: Any, context: Context) -> Result:
        """Do the work on what `prepare` returned."""
        ...


def with_inputs(resolved: ResolvedJob, inputs: Inputs) -> ResolvedJob:
    """Return the job as its inputs have decided: with the keys that were open, and with a second
    model."""
    if inputs.decided:
        before = resolved.config.task
        task = replace(before, **inputs.decided)
        keys = {key.name for key in fields(before)}
        # what was read
        vars(task).update({name: value for name, value in vars(before).items() if name not in keys})
        resolved = resolved.having(task=task)
    return resolved.beside(inputs.second)


def own_config(config: RunnerConfig, kind: type[Own]) -> Own:
    """Return the group `task` of a job's config as the class that the task has for it."""
    assert isinstance(config.task, kind)
    return config.task


def task_of(config: RunnerConfig) -> Task:
    """Import the module that does the work: a job imports only its own task."""
    return cast(Task, importlib.import_module(config.task.module))
