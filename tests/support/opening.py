"""Specs of models, and what the engine makes, predicts and rejects of a spec alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner_base.notes import Note
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.plan import footprint, format_check, memory_check
from runner_engine.plan.footprint import Footprint
from runner_engine.plan.load_plan import plan_model_load
from runner_engine.settings.generation import GenerationConfig
from runner_engine.spec import ModelSpec

if TYPE_CHECKING:  # imports torch
    from runner_engine.local.engine import LocalEngine
    from runner_engine.models.base_loading import LoadedModel

PROMPT_TOKENS = 512  # for which memory is checked


def make_spec(**settings: Any) -> ModelSpec:
    """Make a spec of settings that fit together; answers have at most 24 tokens, unless
    `generation` is given."""
    generation = settings.setdefault("generation", GenerationConfig(max_new_tokens=24))
    rows, new_tokens = generation.batch_size or 1, generation.max_total_new_tokens
    spec = ModelSpec(**({"workload": (rows, PROMPT_TOKENS, new_tokens)} | settings))
    spec.model.check_compatibility(spec.quantization, spec.lora, spec.rope, spec.generation)
    spec.lora.check_merge_settings(spec.layer_mix)
    return spec


def open_engine(spec: ModelSpec, bases: BaseModelCache | None = None) -> LocalEngine:
    from runner_engine.local.engine import LocalEngine

    return LocalEngine(resolve_model(spec), bases)


def load_base(spec: ModelSpec) -> LoadedModel:
    """Load the base after the checks that a job does first."""
    from runner_engine.models import base_loading

    resolved = resolve_model(spec)
    format_check.check_checkpoint_format(resolved)
    return base_loading.load_base_model(resolved)


def adapt(base: LoadedModel, spec: ModelSpec) -> LoadedModel:
    from runner_engine.models import adapter_lifecycle

    return adapter_lifecycle.apply_adapter(base, resolve_model(spec))


def predict(spec: ModelSpec, batch_size: int, prompt_tokens: int, new_tokens: int) -> Footprint | None:
    return footprint.predict_footprint(resolve_model(spec), (batch_size, prompt_tokens, new_tokens))


def check_format(spec: ModelSpec) -> None:
    format_check.check_checkpoint_format(resolve_model(spec))


def check_memory(spec: ModelSpec, rooms_mib: Mapping[str, float]) -> list[Note]:
    return memory_check.check_memory(plan_model_load(resolve_model(spec)), rooms_mib)
