"""Engines and models of a config alone, whose model is looked up on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runner import engines
from runner.checkpoints import formats
from runner.checkpoints.resolve import resolve
from runner.config.root import RunnerConfig
from runner.engines.base import Engine
from runner.engines.kinds import BaseCache

if TYPE_CHECKING:  # imports torch
    from runner.engines.local.engine import LocalEngine
    from runner.models.load import Loaded


def open_engine(config: RunnerConfig, bases: BaseCache | None = None, folder: Path = Path()) -> Engine:
    """As `runner.engines.open_engine`."""
    return engines.open_engine(config, resolve(config), bases, folder)


def local_engine(config: RunnerConfig, bases: BaseCache | None = None) -> LocalEngine:
    """The local engine itself, which tests look into."""
    from runner.engines.local.engine import LocalEngine

    return LocalEngine(config, resolve(config), bases)


def load_base(config: RunnerConfig) -> Loaded:
    """As `runner.models.load.load_base`, behind the checks that a job does first."""
    from runner.models import load

    resolved = resolve(config)
    formats.check(config, resolved)
    return load.load_base(config, resolved)


def adapt(base: Loaded, config: RunnerConfig) -> Loaded:
    """As `runner.models.load.adapt`."""
    from runner.models import load

    return load.adapt(base, config, resolve(config))
