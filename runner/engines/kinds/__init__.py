"""Kinds of models: one description each, found by `ModelConfig.module`. Nobody else asks which kind a model is."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.checkpoints.footprint import Footprint
from runner.checkpoints.resolve import Resolved
from runner.config.model import ModelConfig
from runner.config.root import RunnerConfig, base_key
from runner.config.task import Workload
from runner.engines.base import Capability, Engine, Prompt, Request

Encoded = tuple[str | Sequence[int], list[int]]  # a prompt as the model sees it, and its token ids


@dataclass(frozen=True)
class Need:
    """What one job takes."""

    mib: float
    threads: int


class BaseCache:
    """Keeps the base that was loaded last, for the next job that needs the same one; two may not fit in memory."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._base: Any = None

    def get(self, config: RunnerConfig, load: Callable[[RunnerConfig], Any]) -> tuple[Any, bool]:
        """Return the base that the job needs, and whether it was there already."""
        key = base_key(config)
        if key == self._key:
            return self._base, True
        self.clear()
        self._base, self._key = load(config), key
        return self._base, False

    def clear(self) -> None:
        """Let go of the base."""
        self._key = self._base = None


class ModelKind(ABC):
    """What a kind of model says of itself; what is not abstract holds for a kind that has no weights here.

    Only `import_libraries`, and the engine once it is used, import torch.
    """

    HAS_WEIGHTS = False  # there are files to load, to split and to measure

    @abstractmethod
    def fingerprint(self, config: RunnerConfig, resolved: Resolved, cache: Path) -> dict[str, str]:
        """Return what identifies the model, by name: SHA-256 of files, or whatever decides the answers."""

    @abstractmethod
    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what its engine can do."""

    @abstractmethod
    def open_engine(
        self, config: RunnerConfig, resolved: Resolved, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine; `bases` keeps what was loaded for the next job, `folder` takes logs of its processes."""

    def encoded(self, config: RunnerConfig, resolved: Resolved, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Return each prompt as the model sees it and its token ids, without its weights."""
        engine = self.open_engine(config, resolved)
        try:
            return [engine.encode(Request(0, prompt)) for prompt in prompts]
        finally:
            engine.close()

    def seen(self, config: RunnerConfig, resolved: Resolved, prompt: Prompt) -> str:
        """Return a prompt as the model sees it, without its weights."""
        return str(self.encoded(config, resolved, [prompt])[0][0])

    def base_key(self, config: RunnerConfig) -> str:
        """Return what has to be loaded: jobs with the same key can share it; empty = nothing."""
        return ""

    def check(self, config: RunnerConfig, resolved: Resolved) -> list[str]:
        """Refuse what cannot work, without torch and without a weight; return notes about what is close."""
        return []

    def predict(
        self, config: RunnerConfig, resolved: Resolved, work: Workload, free_mib: float | None = None
    ) -> Footprint | None:
        """Predict the memory of some work, with so much free (None: what is here); None where nothing is known."""
        return Footprint({}, 0, 0, 0, 0)

    def need(self, config: RunnerConfig, resolved: Resolved) -> Need:
        """Predict memory and threads of a job."""
        return Need(0.0, 1)

    def run_as_torchrun_worker(self, config: RunnerConfig) -> int | None:
        """Serve the process that has the job and return the exit code; None where the job is this process's own."""
        return None

    def import_libraries(self, config: RunnerConfig, resolved: Resolved) -> None:  # noqa: B027
        """Import what a job will use, so that what is measured afterwards is not the libraries."""


def kind_of(model: ModelConfig) -> ModelKind:
    """Return the description of a model's kind; imported here, so that a job pays only for its own."""
    kind: ModelKind = importlib.import_module(model.module).KIND
    return kind
