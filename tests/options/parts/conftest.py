"""The fixtures `trip`, `model` and `parts`: a tiny model of four layers, and its split into as many
parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stages import split_into
from trips import Trip

from runner.config.root import RunnerConfig


@pytest.fixture(scope="module")
def model(saved_family: Any) -> Path:
    folder: Path = saved_family("llama", num_hidden_layers=4, head_dim=16, tied=True)
    return folder


@pytest.fixture(scope="module")
def parts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into(model, tmp_path_factory.mktemp("split") / "parts", 4)


@pytest.fixture
def trip(tmp_path: Path, make_config: Callable[..., RunnerConfig]) -> Trip:
    """Return splits, merges, verifications and archives in a folder of their own."""
    return Trip(tmp_path, make_config)
