"""Defines the interface that every task module implements. Tasks never import each other.

`USES` names the resources of a task. Plans, checks before loading, the job id and the number of
workers depend on it alone, so no code outside this folder asks for a task's name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
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
    """Resource that a task needs at run time, such as model weights or an engine."""

    weights = "weights"  # loads what the model group names: its hashes count, and memory is checked before
    model_files = "model_files"  # reads files of the model group without loading them
    own_location = "own_location"  # reads what a key of its own names (task.parts), and not the model group
    engine = "engine"  # asks an engine for completions
    machine = "machine"  # measures: machine and versions are part of the job's identity, and it runs alone
    fresh_process = "fresh_process"  # measures in child processes of its own


@dataclass
class TaskInputs:
    """Inputs that a task reads before it runs. Each task adds attributes in a subclass."""

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


def _log_nothing(*_: object) -> None: ...


@dataclass
class TaskContext:
    """Objects that a running task uses: recorder, resolved job, engine and the log of its progress."""

    recorder: Recorder
    resolved: ResolvedJob
    engine: Engine  # built at its first use: a job that never uses it never imports torch
    # takes the number of answered questions, of all questions, and the metrics so far
    log_progress: Callable[[int, int, Mapping[str, float]], None] = _log_nothing

    @property
    def config(self) -> RunnerConfig:
        return self.resolved.config


class Task(Protocol):
    """Protocol of a task module: the attributes and functions that every task defines.

    Optional functions: deliver(inputs, resolved, job, result): for a recorded job, apply keys that
    are not part of the job id. questions_left(inputs, job): number of questions without an answer
    on disk, for a plan. check_lengths(inputs, resolved): reject prompts that exceed the context
    length before loading; returns notes. preview(inputs, resolved): return lines for a plan without
    loading weights. render_shown_prompts(inputs, resolved): return the first task.show_prompt
    prompts as the model sees them; called only if that key is set. has_configured_baseline(config):
    `Inputs.is_compared` before the inputs are available, from the keys alone. build_job_requests(inputs): the
    job's requests, whose ids are the indices of its samples, so that other jobs can score its answers.
    """

    VERSION: int  # raise it when the same completions would be scored or measured differently
    USES: frozenset[Uses]
    FROM_LEDGER: bool  # False: a recorded result is not reused, the job runs again

    def prepare(self, config: RunnerConfig) -> TaskInputs:
        """Read and hash the task's inputs once. Invalid inputs raise an error before any model is loaded."""
        ...

    def run(self, inputs: Any, context: TaskContext) -> Result:
        """Run the task on the inputs that `prepare` returned."""
        ...


def update_job_with_task_inputs(resolved: ResolvedJob, inputs: TaskInputs) -> ResolvedJob:
    """Return the job with the config values that were read from its inputs, and with the second model
    if there is one.
    """
    if inputs.decided:
        before = resolved.config.task
        task = replace(before, **inputs.decided)
        keys = {key.name for key in fields(before)}
        # what was read
        vars(task).update({name: value for name, value in vars(before).items() if name not in keys})
        resolved = resolved.copy_with_changed_config_groups(task=task)
    return resolved.copy_job_with_second_model(inputs.second)


def render_requested_prompts(task: Task, inputs: TaskInputs, resolved: ResolvedJob) -> str:
    """Return the prompts that task.show_prompt asks for, or an empty string if it asks for none."""
    if getattr(resolved.config.task, "show_prompt", 0) and hasattr(task, "render_shown_prompts"):
        return str(task.render_shown_prompts(inputs, resolved))
    return ""


def typed_task_config(config: RunnerConfig, task_config_class: type[Own]) -> Own:
    assert isinstance(config.task, task_config_class)
    return config.task


def import_task_module(config: RunnerConfig) -> Task:
    """Import the module of the job's task, and no other task."""
    return cast(Task, importlib.import_module(config.task.module))
