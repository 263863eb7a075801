"""model=stub: no weights, so nothing to check, to load or to share."""

from __future__ import annotations

from pathlib import Path

from runner.checkpoints.resolve import Resolved
from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.engines.base import Capability, Engine
from runner.engines.kinds import ModelKind
from runner.engines.local.base_cache import BaseCache
from runner.engines.stub import CAPABILITIES, StubEngine


class Stub(ModelKind):
    """Its answers are made up."""

    def evidence(self, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return that it is the stub."""
        return {"model": "stub"}

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Claim everything."""
        return CAPABILITIES

    def open_engine(self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None) -> Engine:
        """Return the stub engine."""
        assert isinstance(config.model, StubConfig)
        return StubEngine(config, config.model.delay_s)


KIND = Stub()
