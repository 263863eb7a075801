"""Engines convert requests to completions. `open_engine` chooses one by the config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.engines.kinds import model_kind
from runner_base import signals
from runner_engine import (
    BaseModelCache,
    Capability,
    Engine,
    EngineReport,
    EngineStats,
    ModelArithmetic,
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
    def _built_engine(self) -> Engine:
        return self._build()

    @property
    def stats(self) -> EngineStats:
        """Totals so far. Zeros before the first use."""
        return self._built_engine.stats if "_real" in vars(self) else EngineStats()

    def load(self) -> EngineReport:
        """Build the engine and load the model."""
        return self._built_engine.load()

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        return self._built_engine.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        return self._built_engine.decode(ids)

    def open(self, batch_size: int | None = None) -> Session:
        return self._built_engine.open(batch_size)

    def arithmetic(self) -> ModelArithmetic | None:
        return self._built_engine.arithmetic()

    def close(self) -> None:
        """Free the weights, if the engine was built."""
        if "_real" in vars(self):
            self._built_engine.close()
            del self._built_engine


def open_engine(
    resolved: ResolvedJob,
    bases: BaseModelCache | None = None,
    folder: Path | None = None,
    before_loading: Callable[[], None] | None = None,
) -> Engine:
    """Return the engine for a config, not built yet.

    `bases` keeps the loaded model for the next job; an engine that starts processes writes
    their logs to `folder`; `before_loading` is called after the libraries are imported: it may
    raise errors of other components before a long load.
    """
    kind = model_kind(resolved.config.model)

    def build_engine() -> Engine:
        with (
            signals.defer_until_step_ends()
        ):  # amid an import a signal leaves half a module behind, or aborts the process in C++
            kind.import_libraries(resolved)
        if before_loading is not None:
            before_loading()
        return kind.open_engine(resolved, bases, folder)

    return LazyEngine(build_engine, kind.capabilities(resolved.config))
