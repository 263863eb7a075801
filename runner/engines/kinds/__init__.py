"""Kinds of models: one description each, found by `ModelConfig.module`. Nobody else asks which kind a model is."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from runner.checkpoints.footprint import Footprint
from runner.checkpoints.resolve import Resolved
from runner.config.model import ModelConfig
from runner.config.root import RunnerConfig
from runner.engines.base import Capability, Engine
from runner.engines.local.base_cache import BaseCache


@dataclass(frozen=True)
class Need:
    """What one job takes."""

    mib: float
    threads: int


class ModelKind(ABC):
    """What a kind of model says of itself; what is not abstract holds for a kind that has no weights here.

    Only `import_libraries`, and the engine once it is used, import torch.
    """

    HAS_WEIGHTS = False  # there are files to load, to split and to measure

    @abstractmethod
    def evidence(self, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return what a job's identity rests on, by name: SHA-256 of files, or whatever decides the answers."""

    @abstractmethod
    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what its engine can do."""

    @abstractmethod
    def open_engine(self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None) -> Engine:
        """Return the engine; `bases` keeps what was loaded for the next job."""

    def base_key(self, config: RunnerConfig) -> str:
        """Return what has to be loaded: jobs with the same key can share it; empty = nothing."""
        return ""

    def check(self, config: RunnerConfig, resolved: Resolved) -> list[str]:
        """Refuse what cannot work, without torch and without a weight; return notes about what is close."""
        return []

    def predict(
        self, config: RunnerConfig, resolved: Resolved, batch_size: int, prompt_tokens: int, new_tokens: int
    ) -> Footprint | None:
        """Predict the memory of some work; None where nothing is known."""
        return Footprint({}, 0, 0, 0, 0)

    def need(self, config: RunnerConfig, resolved: Resolved) -> Need:
        """Predict memory and threads of a job."""
        return Need(0.0, 1)

    def import_libraries(self, config: RunnerConfig, resolved: Resolved) -> None:  # noqa: B027
        """Import what a job will use, so that what is measured afterwards is not the libraries."""


def kind_of(model: ModelConfig) -> ModelKind:
    """Return the description of a model's kind; imported here, so that a job pays only for its own."""
    kind: ModelKind = importlib.import_module(model.module).KIND
    return kind
