"""Kinds of models: one description each, found by `ModelConfig.kind`. Nobody else asks which kind a model is."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from runner.checkpoints.footprint import Footprint
from runner.checkpoints.resolve import Resolved
from runner.config.model import ModelConfig
from runner.config.root import RunnerConfig
from runner.engines.base import Capability, Engine
from runner.engines.local.base_cache import Shelf

MODULES = {"local": "runner.engines.kinds.local", "stub": "runner.engines.kinds.stub"}


@dataclass(frozen=True)
class Need:
    """What one job takes."""

    mib: float
    threads: int


class ModelKind(Protocol):
    """What a kind of model says of itself; only `import_libraries` and the engine, once it is used, import torch."""

    HAS_WEIGHTS: bool  # there are files to load, to split and to measure

    def evidence(self, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return what a job's identity rests on, by name: SHA-256 of files, or whatever decides the answers."""
        ...

    def base_key(self, config: RunnerConfig) -> str:
        """Return what has to be loaded: jobs with the same key can share it; empty = nothing."""
        ...

    def check(self, config: RunnerConfig, resolved: Resolved) -> list[str]:
        """Refuse what cannot work; return notes about what is close."""
        ...

    def predict(
        self, config: RunnerConfig, resolved: Resolved, batch_size: int, prompt_tokens: int, new_tokens: int
    ) -> Footprint | None:
        """Predict the memory of some work; None where nothing is known."""
        ...

    def need(self, config: RunnerConfig, resolved: Resolved) -> Need:
        """Predict memory and threads of a typical job."""
        ...

    def import_libraries(self, config: RunnerConfig, resolved: Resolved) -> None:
        """Import what a job will use, so that what is measured afterwards is not the libraries."""
        ...

    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what its engine can do."""
        ...

    def open_engine(self, config: RunnerConfig, resolved: Resolved, shelf: Shelf | None) -> Engine:
        """Return the engine; a shelf keeps the loaded base for the next job."""
        ...


def kind_of(model: ModelConfig) -> ModelKind:
    """Return the description of a model's kind; imported here, so that a job pays only for its own."""
    return cast(ModelKind, importlib.import_module(MODULES[model.kind]))


if TYPE_CHECKING:  # every kind keeps to the protocol
    from runner.engines.kinds import local, stub

    _KINDS: list[ModelKind] = [local, stub]
