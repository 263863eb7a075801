"""Runs a task's own functions in this process, without a job around them."""

from __future__ import annotations

from typing import Any

from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.records.jobs import Recorder
from runner.tasks.base import TaskContext
from runner_base.result import Result, Sample


def samples_of(recorder: Recorder) -> list[Sample]:
    return [recorder.samples[number] for number in sorted(recorder.samples)]


def work(task: Any, config: RunnerConfig, recorder: Recorder, engine: Any = None) -> Result:
    """Prepare and run a task; without an engine it must not use one."""
    result: Result = task.run(task.prepare(config), TaskContext(recorder, resolve_job(config), engine))
    return result
