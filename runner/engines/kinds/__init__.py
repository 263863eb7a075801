"""Model kinds define how a model is identified, checked and loaded. Each model config names its kind.

No other code depends on a model's kind.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from runner.config.resolved import ResolvedJob
from runner.config.root import RunnerConfig
from runner_engine import (
    BaseModelCache,
    Capability,
    Engine,
    Footprint,
    ModelConfig,
    PositionLimits,
    Prompt,
    Request,
    Workload,
)

LOCAL = "runner.engines.kinds.local"  # describes a model on this machine: its keys are the engine's, which has no kinds
Encoded = tuple[str | Sequence[int], list[int]]  # a prompt as the model sees it, and its token ids


@dataclass(frozen=True)
class ResourceNeed:
    """The memory, threads and GPUs that a job needs."""

    mib: float
    threads: int
    gpus: int = 0
    # those that it needs by number, as model.device=cuda:1 does
    named_gpus: frozenset[int] = frozenset()


class ModelKind(ABC):
    """Base class of model kinds. The default methods suit models without local weights.

    Only `import_libraries`, and the engine at its first use, import torch.
    """

    HAS_WEIGHTS = False  # files that can be loaded, split and measured

    @abstractmethod
    def fingerprint(self, resolved: ResolvedJob, cache: Path) -> dict[str, str]:
        """Return the hashes that identify the model, such as the SHA-256 of its files."""

    @abstractmethod
    def capabilities(self, config: RunnerConfig) -> frozenset[Capability]: ...

    @abstractmethod
    def open_engine(
        self, resolved: ResolvedJob, bases: BaseModelCache | None = None, folder: Path | None = None
    ) -> Engine:
        """Return the engine that runs the job's model.

        `bases` caches loaded base models. Log files are written to `folder`.
        """

    def encode_prompts(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Return each prompt's rendered text and token ids, without loading weights."""
        engine = self.open_engine(resolved)
        try:
            return [engine.encode(Request(0, prompt)) for prompt in prompts]
        finally:
            engine.close()

    def can_count_tokens(self, config: RunnerConfig) -> bool:
        """Return whether this machine can count a prompt's tokens with the model's own tokenizer."""
        return Capability.tokenizer in self.capabilities(config)

    def create_decoder(self, resolved: ResolvedJob) -> Callable[[Sequence[int]], str]:
        """Return a function that decodes token ids without loading weights. The ids may be an excerpt
        of a longer text.
        """
        return self.open_engine(resolved).decode

    def render_prompt(self, resolved: ResolvedJob, prompt: Prompt) -> str:
        return str(self.encode_prompts(resolved, [prompt])[0][0])

    def chat_template(self, resolved: ResolvedJob) -> str | None:
        """Return the text of the model's chat templates, or None if it is known only after
        loading.
        """
        return None

    def base_key(self, config: RunnerConfig) -> str:
        """Return a key that identifies the base model. Jobs with equal keys share one loaded
        model.

        The key is empty if no model is loaded.
        """
        return ""

    def check_job(self, resolved: ResolvedJob) -> list[str]:
        """Raise an error if the job cannot run. Returns warnings, such as a context length that is too
        short.

        Neither torch nor weights are loaded.
        """
        return []

    def check_recorded_job(  # noqa: B027
        self, resolved: ResolvedJob, job_id: str, facts: Mapping[str, str]
    ) -> None:
        """Raise an error if the model of a finished job has changed although the job id has not.

        `facts` are those of the job's record.
        """

    def predict_memory(
        self, resolved: ResolvedJob, workload: Workload, free_mib: float | None = None
    ) -> Footprint | None:
        """Predict the memory that a workload needs. Returns None if a prediction is impossible.

        `free_mib` defaults to this machine's free memory.
        """
        return Footprint({}, 0, 0, 0, 0)

    def predict_max_prompt_cache_mib(
        self, resolved: ResolvedJob, predicted: Footprint, free_mib: float
    ) -> float:
        """Predict the most memory that the engine's cache of earlier prompts can take, beside `predicted`."""
        return 0.0

    def positions(self, resolved: ResolvedJob) -> PositionLimits:
        """Return the model's context lengths, which are read from its files."""
        return PositionLimits()

    def predict_resources(self, resolved: ResolvedJob) -> ResourceNeed:
        """Predict how much memory and how many threads and GPUs a job needs."""
        return ResourceNeed(0.0, 1)

    def build_kernels(self, resolved: ResolvedJob) -> float:
        """Compile all kernels that a job needs and that are not cached, and return the seconds spent."""
        return 0.0

    def import_libraries(self, resolved: ResolvedJob) -> None:  # noqa: B027
        """Import all libraries that a job needs, so that later measurements exclude the imports."""

    def loads_quickly(self, resolved: ResolvedJob) -> bool:
        """Whether loading takes so few seconds that nobody minds an error that comes afterwards."""
        return False


@runtime_checkable
class RunsUnderTorchrun(Protocol):
    """Model kind that can run in processes that torchrun has started."""

    def run_as_torchrun_worker(self, config: RunnerConfig) -> int | None:
        """Run as a torchrun worker and return the exit code. Returns None in the main process."""


class KindWithTokenizer(ModelKind):
    """Model kind with a tokenizer on this machine, whichever engine runs the model."""

    def encode_prompts(self, resolved: ResolvedJob, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Render and tokenize prompts, loading only the tokenizer."""
        from runner_engine import create_tokenizer_only_encoder  # imports torch

        encoder = create_tokenizer_only_encoder(resolved.model)
        return [encoder.encode_prompt(Request(0, prompt)) for prompt in prompts]

    def can_count_tokens(self, config: RunnerConfig) -> bool:
        """Return True, because the tokenizer of such a model is on this machine."""
        return True

    def create_decoder(self, resolved: ResolvedJob) -> Callable[[Sequence[int]], str]:
        """Return a function that decodes token ids, loading only the tokenizer."""
        from runner_engine import create_tokenizer_only_encoder  # imports torch

        return create_tokenizer_only_encoder(resolved.model).decode


def get_model_kind(model: ModelConfig) -> ModelKind:
    kind: ModelKind = importlib.import_module(getattr(model, "module", LOCAL)).KIND
    return kind
