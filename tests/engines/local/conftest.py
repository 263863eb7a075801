"""Engines that are closed when a test ends, and kernels whose tiles are emulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulated import OnlyTiles, built_attention
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
def emulated_tiles(made_once: Callable[..., Path]) -> OnlyTiles:
    """Attention to shared keys and products by tiles (AMX) that are emulated; they are built once."""
    return OnlyTiles(made_once("emulated_tiles", built_attention) / "products.so")
