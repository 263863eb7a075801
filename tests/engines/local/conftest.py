"""The fixture `opened`: engines that are closed when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
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
