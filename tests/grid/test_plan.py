"""How many workers a grid gets: by what its jobs really load, wherever that lies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from stages import split_into

from runner.checkpoints.resolve import resolve
from runner.config.root import RunnerConfig
from runner.config.task import Gsm8kConfig, PipelineConfig, TaskConfig, VerifyConfig
from runner.core import machine
from runner.core.machine import MIB
from runner.core.result import Status
from runner.grid.plan import Outcome, Planned, group, how_many, need_of
from runner.grid.show import View
from runner.grid.workers import Worker, WorkerPool
from runner.sharding.manifest import read_manifest
from runner.store.jobs import Job

Make = Callable[..., RunnerConfig]


@pytest.fixture
def parts(tiny_llama: Path, tmp_path: Path) -> Path:
    return split_into(tiny_llama, tmp_path / "parts", 2)


def planned(make_config: Make, task: TaskConfig) -> Planned:
    config = make_config(task=task)
    return Planned([], config, resolved=resolve(config))


def test_a_pipeline_needs_its_parts_and_not_the_model_group(make_config: Make, parts: Path) -> None:
    config = make_config(task=PipelineConfig(parts=str(parts), prompt="x"))
    stored = sum(part.raw.nbytes for part in read_manifest(parts).parts) / MIB
    assert need_of(config, resolve(config)).mib == pytest.approx(stored)
    assert stored > 0


def test_each_job_without_a_shared_base_counts(make_config: Make, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine, "gpu_models", list)
    pipeline = planned(make_config, PipelineConfig(parts=str(parts), prompt="x"))  # takes all cores
    verify = planned(make_config, VerifyConfig(parts=str(parts)))  # takes one
    assert how_many([verify, verify], [0, 1], "auto") == 2
    for plan in ([pipeline, verify], [verify, pipeline]):
        assert how_many(plan, [0, 1], "auto") == 1


def test_a_job_waits_for_its_reference_if_that_stands_in_the_grid(make_config: Make, tmp_path: Path) -> None:
    plan = [planned(make_config, Gsm8kConfig()) for _ in range(4)]
    for number, (job_id, after) in enumerate([("a", "c"), ("b", "elsewhere"), ("c", ""), ("d", "c")]):
        plan[number].job, plan[number].after = Job(job_id, tmp_path / job_id), after
    pool = WorkerPool(plan, [0, 1, 2, 3], 2, tmp_path, View([], 0))
    pool._groups = group(plan, pool.numbers)
    taken = [pool._ready(), pool._ready()]
    assert taken == [deque([2]), deque([1])]
    pool._workers = [cast(Worker, SimpleNamespace(current=2))]
    assert pool._ready() is None, "both others wait for the one that is being done"
    pool.outcomes[2] = Outcome(Status.FINISHED)
    assert [pool._ready(), pool._ready(), pool._ready()] == [deque([0]), deque([3]), None]


def test_of_jobs_that_share_a_base_the_reference_goes_first(make_config: Make) -> None:
    plan = [planned(make_config, Gsm8kConfig()) for _ in range(3)]
    for one in plan:
        one.base = "the same"
    plan[0].after = plan[2].after = "x"
    assert group(plan, [0, 1, 2]) == deque([deque([1, 0, 2])])
