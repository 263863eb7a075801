"""The fixtures `model` and `parts`: a tiny model of four layers, and its split into as many parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stages import split_into


@pytest.fixture(scope="module")
def model(saved_family: Any) -> Path:
    folder: Path = saved_family("llama", num_hidden_layers=4, head_dim=16, tied=True)
    return folder


@pytest.fixture(scope="module")
def parts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into(model, tmp_path_factory.mktemp("split") / "parts", 4)
