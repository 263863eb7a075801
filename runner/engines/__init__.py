"""Engines: what turns requests into completions. `open_engine` picks one from the config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from runner.checkpoints.resolve import Resolved
from runner.config.root import RunnerConfig
from runner.engines.arithmetic import Arithmetic
from runner.engines.base import Capability, Engine, EngineReport, Request
from runner.engines.kinds import BaseCache, kind_of
from runner.engines.session import Session
from runner.engines.stats import EngineStats


class LazyEngine:
    """An engine that is built on first use: a job that needs no model never imports torch.

    Nothing else waits for its first use: a built engine is loaded by `load`, and by `open` where that comes first.
    """

    def __init__(self, build: Callable[[], Engine], capabilities: frozenset[Capability]) -> None:
        self._build, self.capabilities = build, capabilities

    @cached_property
    def _real(self) -> Engine:
        return self._build()

    @property
    def stats(self) -> EngineStats:
        """Totals so far; zeros before the first use."""
        return self._real.stats if "_real" in vars(self) else EngineStats()

    def load(self) -> EngineReport:
        """Build and load."""
        return self._real.load()

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Pass the question on."""
        return self._real.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Pass the question on."""
        return self._real.decode(ids)

    def open(self, batch_size: int | None = None) -> Session:
        """Open a session of the real one."""
        return self._real.open(batch_size)

    def arithmetic(self) -> Arithmetic | None:
        """Pass the question on."""
        return self._real.arithmetic()

    def close(self) -> None:
        """Let go of the weights, if there are any."""
        if "_real" in vars(self):
            self._real.close()
            del self._real


def open_engine(
    config: RunnerConfig, resolved: Resolved, bases: BaseCache | None = None, folder: Path | None = None
) -> Engine:
    """Return the engine that the config asks for, not built yet.

    `bases` keeps the loaded base for the next job; folder takes the logs of an engine that starts processes.
    """
    kind = kind_of(config.model)
    return LazyEngine(lambda: kind.open_engine(config, resolved, bases, folder), kind.capabilities(config))
