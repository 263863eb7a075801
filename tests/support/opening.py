"""Opens engines and models from a config alone, resolving the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runner import engines
from runner.config.resolved import resolve
from runner.config.root import RunnerConfig
from runner_engine.local.base_cache import BaseCache
from runner_engine.plan import formats
from runner_engine.sessions.contract import Engine

if TYPE_CHECKING:  # imports torch
    from runner_engine.local.engine import LocalEngine
    from runner_engine.models.load import Loaded


def open_engine(config: RunnerConfig, bases: BaseCache | None = None, folder: Path = Path()) -> Engine:
    """Call `runner.engines.open_engine` with the resolved model."""
    return engines.open_engine(resolve(config), bases, folder)


def local_engine(config: RunnerConfig, bases: BaseCache | None = None) -> LocalEngine:
    """Return the local engine itself, for tests of its inner state."""
    from runner_engine.local.engine import LocalEngine

    return LocalEngine(resolve(config), bases)


def load_base(config: RunnerConfig) -> Loaded:
    """Call `runner_engine.models.load.load_base` after the checks that a job does first."""
    from runner_engine.models import load

    resolved = resolve(config)
    formats.check(resolved)
    return load.load_base(resolved)


def adapt(base: Loaded, config: RunnerConfig) -> Loaded:
    """Call `runner_engine.models.adapting.adapt` with the resolved model."""
    from runner_engine.models import adapting

    return adapting.adapt(base, resolve(config))
