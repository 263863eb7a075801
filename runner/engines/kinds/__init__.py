"""Kinds of models: one description each, found by the `module` of its keys. No other code depends
on a model's kind."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner_engine import (
    BaseCache,
    Capability,
    Engine,
    Footprint,
    ModelConfig,
    Positions,
    Prompt,
    Request,
    Workload,
)

LOCAL = "runner.engines.kinds.local"  # describes a model on this machine: its keys are the engine's, which has no kinds
Encoded = tuple[str | Sequence[int], list[int]]  # a prompt as the model sees it, and its token ids


@dataclass(frozen=True)
class Need:
    """The memory, threads and GPUs that a job needs."""

    mib: float
    threads: int
    gpus: int = 0
    # those that it needs by number, as model.device=cuda:1 does
    named_gpus: frozenset[int] = frozenset()


class ModelKind(ABC):
    """The description of a kind of model; the default methods are for a kind without weights on
    this machine.

    Only `import_libraries`, and the engine at its first use, import torch.
    """

    HAS_WEIGHTS = False  # files that can be loaded, split and measured

    @abstractmethod
    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return what identifies the model, by name: SHA-256 of files, or whatever else decides the
        answers."""

    @abstractmethod
    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]:
        """Return what its engine can do."""

    @abstractmethod
    def open_engine(
        self, resolved: ResolvedJob, bases: BaseCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine; `bases` keeps the loaded base for the next job, `folder` gets its
        processes' logs."""

    def encoded(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Return each prompt as the model sees it and its token ids, without loading weights."""
        engine = self.open_engine(resolved)
        try:
            return [engine.encode(Request(0, prompt)) for prompt in prompts]
        finally:
            engine.close()

    def counts_tokens(self, config: RunnerConfig) -> bool:
        """Whether prompts can be counted in the model's own tokens on this machine."""
        return Capability.tokenizer in self.capabilities(config)

    def decoder(self, resolved: ResolvedJob) -> Callable[[Sequence[int]], str]:
        """Return what gives the text of token ids as part of a longer text, without loading
        weights."""
        return self.open_engine(resolved).decode

    def rendered(self, resolved: ResolvedJob, prompt: Prompt) -> str:
        """Return a prompt as the model sees it, without loading weights."""
        return str(self.encoded(resolved, [prompt])[0][0])

    def chat_template(self, resolved: ResolvedJob) -> str | None:
        """Return the text of the model's chat templates, as far as its files show it before a
        load."""
        return None

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key for what must be loaded, which jobs with the same key share; empty =
        nothing."""
        return ""

    def check(self, resolved: ResolvedJob) -> list[str]:
        """Refuse what cannot work, without torch and weights; return notes about near misses."""
        return []

    def predict(
        self, resolved: ResolvedJob, work: Workload, free_mib: float | None = None
    ) -> Footprint | None:
        """Predict the memory for some work; free_mib None: this machine's; returns None if
        unknown."""
        return Footprint({}, 0, 0, 0, 0)

    def positions(self, resolved: ResolvedJob) -> Positions:
        """Return how many positions the model has, as far as its files tell."""
        return Positions()

    def need(self, resolved: ResolvedJob) -> Need:
        """Predict the memory, the threads and the GPUs of a job."""
        return Need(0.0, 1)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        """Build what a job needs of this machine's C compiler, unless that is done; return the
        seconds."""
        return 0.0

    def import_libraries(self, resolved: ResolvedJob) -> None:  # noqa: B027
        """Import what a job will use, so that later measurements do not include the libraries."""


@runtime_checkable
class RunsUnderTorchrun(Protocol):
    """A kind whose processes torchrun may start."""

    def run_as_torchrun_worker(self, config: RunnerConfig) -> int | None:
        """Work for the process that runs the job, and return the exit code; None if this process
        runs it."""


class WithTokenizer(ModelKind):
    """A kind whose tokenizer is among its files here, whatever runs the model."""

    def encoded(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Render and tokenize prompts, with the tokenizer alone."""
        from runner_engine import request_encoder_of  # imports torch

        encoder = request_encoder_of(resolved.model)
        return [encoder.encode(Request(0, prompt)) for prompt in prompts]

    def counts_tokens(self, config: RunnerConfig) -> bool:
        """Its tokenizer counts them."""
        return True

    def decoder(self, resolved: ResolvedJob) -> Callable[[Sequence[int]], str]:
        """Return what gives the text of token ids, with the tokenizer alone."""
        from runner_engine import request_encoder_of  # imports torch

        return request_encoder_of(resolved.model).decode


def kind_of(model: ModelConfig) -> ModelKind:
    """Return the description of a model's kind; imported here, so that a job imports only its
    own."""
    kind: ModelKind = importlib.import_module(getattr(model, "module", LOCAL)).KIND
    return kind
