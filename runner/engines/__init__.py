"""Engines: what turns requests into completions. `open_engine` picks one from the config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.engines.base import Completion, Engine, EngineReport, EngineStats, Request, Watch
from runner.engines.local.base_cache import Shelf


class LazyEngine:
    """An engine that is built on first use: a job that needs no model never imports torch."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._engine: Engine | None = None

    @property
    def _real(self) -> Engine:
        if self._engine is None:
            self._engine = self._build()
        return self._engine

    @property
    def stats(self) -> EngineStats:
        """Totals so far; zeros before the first use."""
        return EngineStats() if self._engine is None else self._engine.stats

    def load(self) -> EngineReport:
        """Build and load."""
        return self._real.load()

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Pass the question on."""
        return self._real.encode(request)

    def complete(
        self, requests: Sequence[Request], batch_size: int | None = None, watch: Watch | None = None
    ) -> Iterator[Completion]:
        """Pass the requests on."""
        return self._real.complete(requests, batch_size, watch)

    def close(self) -> None:
        """Let go of the weights, if there are any."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def open_engine(config: RunnerConfig, shelf: Shelf | None = None) -> Engine:
    """Return the engine that the config asks for, not loaded yet; a shelf keeps the base for the next job."""

    def build() -> Engine:
        if isinstance(config.model, StubConfig):
            from runner.engines.stub import StubEngine

            return StubEngine(config)
        from runner.engines.local.engine import LocalEngine  # imports torch

        return LocalEngine(config, shelf)

    return LazyEngine(build)
