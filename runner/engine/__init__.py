"""Engines: what turns requests into completions. `open_engine` picks one from the config."""

from __future__ import annotations

from runner.config import RunnerConfig, StubConfig
from runner.engine.base import Engine


def open_engine(config: RunnerConfig) -> Engine:
    """Return the engine that the config asks for, not loaded yet."""
    if isinstance(config.model, StubConfig):
        from runner.engine.stub import StubEngine

        return StubEngine(config)
    from runner.engine.local import LocalEngine  # imports torch

    return LocalEngine(config)
