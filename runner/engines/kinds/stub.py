"""model=stub: no weights, so nothing to hash, to check, to load or to share."""

from __future__ import annotations

from pathlib import Path

from runner.checkpoints.footprint import Footprint
from runner.checkpoints.resolve import Resolved
from runner.config.model import StubConfig
from runner.config.root import RunnerConfig
from runner.engines import stub
from runner.engines.base import Capability, Engine
from runner.engines.kinds import Need
from runner.engines.local.base_cache import Shelf

HAS_WEIGHTS = False


def evidence(resolved: Resolved, cache: Path) -> dict[str, str]:  # noqa: ARG001  # so for all kinds
    """Return that it is the stub."""
    return {"model": "stub"}


def base_key(config: RunnerConfig) -> str:  # noqa: ARG001
    """Return that there is nothing to load."""
    return ""


def check(config: RunnerConfig, resolved: Resolved) -> list[str]:  # noqa: ARG001
    """Accept everything."""
    return []


def predict(
    config: RunnerConfig,  # noqa: ARG001
    resolved: Resolved,  # noqa: ARG001
    batch_size: int,  # noqa: ARG001
    prompt_tokens: int,  # noqa: ARG001
    new_tokens: int,  # noqa: ARG001
) -> Footprint:
    """Predict nothing at all."""
    return Footprint({}, 0, 0, 0, 0)


def need(config: RunnerConfig, resolved: Resolved) -> Need:  # noqa: ARG001
    """Take one thread and no memory."""
    return Need(0.0, 1)


def import_libraries(config: RunnerConfig, resolved: Resolved) -> None:
    """Use no library."""


def capabilities(config: RunnerConfig) -> frozenset[Capability]:  # noqa: ARG001
    """Claim everything: its answers are made up."""
    return stub.CAPABILITIES


def open_engine(config: RunnerConfig, resolved: Resolved, shelf: Shelf | None) -> Engine:  # noqa: ARG001
    """Return the stub engine."""
    assert isinstance(config.model, StubConfig)
    return stub.StubEngine(config, config.model.delay_s)
