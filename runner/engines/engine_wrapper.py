"""Base class of engines that run on top of the job's engine."""

from __future__ import annotations

from collections.abc import Sequence

from runner_engine import Capability, Engine, EngineReport, EngineStats, ModelArithmetic, Request


class EngineWrapper:
    """Passes everything but `open` on to the job's engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.engine.capabilities

    @property
    def stats(self) -> EngineStats:
        return self.engine.stats

    def load(self) -> EngineReport:
        return self.engine.load()

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        return self.engine.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        return self.engine.decode(ids)

    def arithmetic(self) -> ModelArithmetic | None:
        return self.engine.arithmetic()

    def close(self) -> None:
        self.engine.close()
