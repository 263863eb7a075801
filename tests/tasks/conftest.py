"""What several tests of tasks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from likely import PAIRS, jsonl

from runner.config.root import RunnerConfig
from runner.tasks.likelihood.keys import LikelihoodConfig
from runner_base.dtypes import Dtype
from runner_engine.settings.model import LocalModelConfig


@pytest.fixture
def two(
    make_config: Callable[..., RunnerConfig], saved_family: Callable[..., Path], tmp_path: Path
) -> Callable[..., RunnerConfig]:
    """Return a function that makes a job of the one model or of the other one, which score the same
    texts."""
    folders = [saved_family("llama", seed=seed) for seed in (0, 1)]
    data = jsonl(tmp_path / "pairs.jsonl", PAIRS)

    def make(which: int, **keys: Any) -> RunnerConfig:
        model = LocalModelConfig(name=str(folders[which]), device="cpu", dtype=Dtype.float32)
        return make_config(model=model, task=LikelihoodConfig(**({"data": data} | keys)))

    return make
