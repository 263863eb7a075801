"""Opens the engine of a job from its config alone."""

from __future__ import annotations

from pathlib import Path

from runner import engines
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.sessions.contract import Engine


def open_engine(config: RunnerConfig, bases: BaseModelCache | None = None, folder: Path = Path()) -> Engine:
    """Call `runner.engines.create_lazy_engine` with the resolved job."""
    return engines.create_lazy_engine(resolve_job(config), bases, folder)
