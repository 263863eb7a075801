"""Engines that are closed when a test ends, and kernels whose tiles are emulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from emulated import OnlyTiles, emulated_attention
from opening import local_engine

from runner.config.root import RunnerConfig
from runner.engines.local.engine import LocalEngine


@pytest.fixture
def opened(make_config: Callable[..., RunnerConfig]) -> Iterator[Callable[..., LocalEngine]]:
    """Return a function that makes a local engine of some groups of a config."""
    engines: list[LocalEngine] = []

    def make(**groups: Any) -> LocalEngine:
        engines.append(local_engine(make_config(**groups)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def emulated_tiles(tmp_path_factory: pytest.TempPathFactory) -> OnlyTiles:
    """Attention to shared keys and products by tiles (AMX) that are emulated; they are built once."""
    return emulated_attention(tmp_path_factory.mktemp("emulated"))
