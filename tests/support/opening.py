"""Specs of models, and what the engine makes, predicts and rejects of a spec alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner_base.notes import Note
from runner_engine.checkpoints.resolve import resolve
from runner_engine.local.base_cache import BaseCache
from runner_engine.plan import footprint, formats, memory_check
from runner_engine.plan.footprint import Footprint
from runner_engine.plan.load_plan import plan_load
from runner_engine.settings.generation import GenerationConfig
from runner_engine.spec import ModelSpec

if TYPE_CHECKING:  # imports torch
    from runner_engine.local.engine import LocalEngine
    from runner_engine.models.load import Loaded

PROMPT_TOKENS = 512  # for which memory is checked


def make_spec(**settings: Any) -> ModelSpec:
    """Make a spec of settings that fit together; answers have at most 24 tokens, unless
    `generation` is given."""
    generation = settings.setdefault("generation", GenerationConfig(max_new_tokens=24))
    rows, new_tokens = generation.batch_size or 1, generation.most_new_tokens
    spec = ModelSpec(**({"workload": (rows, PROMPT_TOKENS, new_tokens)} | settings))
    spec.model.check_beside(spec.quantization, spec.lora, spec.rope, spec.generation)
    spec.lora.check_merging(spec.mix)
    return spec


def open_engine(spec: ModelSpec, bases: BaseCache | None = None) -> LocalEngine:
    from runner_engine.local.engine import LocalEngine

    return LocalEngine(resolve(spec), bases)


def load_base(spec: ModelSpec) -> Loaded:
    """Load the base after the checks that a job does first."""
    from runner_engine.models import load

    resolved = resolve(spec)
    formats.check(resolved)
    return load.load_base(resolved)


def adapt(base: Loaded, spec: ModelSpec) -> Loaded:
    from runner_engine.models import adapting

    return adapting.adapt(base, resolve(spec))


def predict(spec: ModelSpec, batch_size: int, prompt_tokens: int, new_tokens: int) -> Footprint | None:
    return footprint.predict(resolve(spec), (batch_size, prompt_tokens, new_tokens))


def check_format(spec: ModelSpec) -> None:
    formats.check(resolve(spec))


def check_memory(spec: ModelSpec, rooms_mib: Mapping[str, float]) -> list[Note]:
    return memory_check.check_memory(plan_load(resolve(spec)), rooms_mib)
