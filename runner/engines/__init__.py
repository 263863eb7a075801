"""Engines generate completions for requests. `create_lazy_engine` selects the engine by the model's
config.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.engines.kinds import get_model_kind
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
    """Engine that is built on first use, so that jobs without a model never import torch.

    Building does not load the model: `load` does, or `open` if that comes first.
    """

    def __init__(
        self,
        build_engine: Callable[[], Engine],
        capabilities: frozenset[Capability],
        check_after_load: Callable[[], None] | None = None,
    ) -> None:
        """check_after_load: may raise errors of other components, each time the engine is loaded."""
        self._build, self.capabilities, self._check_after_load = build_engine, capabilities, check_after_load

    @cached_property
    def _built_engine(self) -> Engine:
        return self._build()

    @property
    def stats(self) -> EngineStats:
        return self._built_engine.stats if "_built_engine" in vars(self) else EngineStats()

    def load(self) -> EngineReport:
        report = self._built_engine.load()
        if self._check_after_load is not None:
            self._check_after_load()
        return report

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        return self._built_engine.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        return self._built_engine.decode(ids)

    def open(self, batch_size: int | None = None) -> Session:
        if self._check_after_load is not None:
            self.load()
        return self._built_engine.open(batch_size)

    def arithmetic(self) -> ModelArithmetic | None:
        return self._built_engine.arithmetic()

    def close(self) -> None:
        if "_built_engine" in vars(self):
            self._built_engine.close()
            del self._built_engine


def create_lazy_engine(
    resolved: ResolvedJob,
    base_models: BaseModelCache | None = None,
    folder: Path | None = None,
    check_others: Callable[[], None] | None = None,
) -> Engine:
    """Return an engine for the job's config. The engine is built when it is first used.

    `base_models` keeps the loaded model for the next job; an engine that starts processes writes
    their logs to `folder`; `check_others` may raise errors of other components, and may wait for them: it
    is called before a long load, but after a short one.
    """
    kind = get_model_kind(resolved.config.model)
    is_checked_later = check_others is not None and kind.loads_quickly(resolved)

    def import_libraries_and_open_engine() -> Engine:
        with (
            signals.defer_signals_until_step_ends()
        ):  # amid an import a signal leaves half a module behind, or aborts the process in C++
            kind.import_libraries(resolved)
        if check_others is not None and not is_checked_later:
            check_others()
        return kind.open_engine(resolved, base_models, folder)

    capabilities = kind.capabilities(resolved.config)
    return LazyEngine(
        import_libraries_and_open_engine, capabilities, check_others if is_checked_later else None
    )
