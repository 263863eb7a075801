"""How many workers a grid gets: by what its jobs really load, wherever that lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stages import split_into

from runner.checkpoints.resolve import resolve
from runner.config.root import RunnerConfig
from runner.config.task import PipelineConfig, TaskConfig, VerifyConfig
from runner.core import machine
from runner.core.machine import MIB
from runner.grid.plan import Planned, how_many, need_of
from runner.sharding.manifest import read_manifest

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
