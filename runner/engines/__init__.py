"""Engines turn requests into completions. `open_engine` chooses one by the config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.engines.kinds import kind_of
from runner_base import signals
from runner_engine import (
    Arithmetic,
    BaseCache,
    Capability,
    Engine,
    EngineReport,
    EngineStats,
    Request,
    Session,
)


class LazyEngine:
    """An engine that is built on first use, so that a job that needs no model never imports torch.

    Building does not load the model: `load` does, or `open` if that comes first.
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
        """Call the real engine."""
        return self._real.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Call the real engine."""
        return self._real.decode(ids)

    def open(self, batch_size: int | None = None) -> Session:
        return self._real.open(batch_size)

    def arithmetic(self) -> Arithmetic | None:
        """Call the real engine."""
        return self._real.arithmetic()

    def close(self) -> None:
        """Free the weights, if the engine was built."""
        if "_real" in vars(self):
            self._real.close()
            del self._real


def open_engine(
    resolved: ResolvedJob,
    bases: BaseCache | None = None,
    folder: Path | None = None,
    before_loading: Callable[[], None] | None = None,
) -> Engine:
    """Return the engine for a config, not built yet.

    `bases` keeps the loaded base for the next job; an engine that starts processes writes their
    logs to `folder`; `before_loading` is called when the libraries are imported: it may raise what
    is wrong elsewhere before a long load.
    """
    kind = kind_of(resolved.config.model)

    def build() -> Engine:
        with (
            signals.finishing()
        ):  # amid an import a signal leaves half a module behind, or aborts the process in C++
            kind.import_libraries(resolved)
        if before_loading is not None:
            before_loading()
        return kind.open_engine(resolved, bases, folder)

    return LazyEngine(build, kind.capabilities(resolved.config))
