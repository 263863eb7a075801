"""Resolves a composed config to a job with a model specification and the hashes of model files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from runner.config.profiles import list_missing_gpu_warnings
from runner.config.root import RunnerConfig
from runner.config.task import limit_batch_size
from runner_base import ConfigError, check_value
from runner_base.fields import get_choice_name
from runner_engine import GenerationConfig, ModelSpec, ResolvedModel, to_local_model_config
from runner_engine import resolve_model as resolve_model
from runner_engine.checkpoints import unknown_model


@dataclass(frozen=True)
class ResolvedJob:
    """A composed job: its config, its resolved model, and notes on values that were set automatically."""

    config: RunnerConfig
    model: ResolvedModel
    second: ResolvedJob | None = None  # whose model is loaded beside this one
    notes: tuple[str, ...] = ()

    def copy_job_with_second_model(self, second_config: RunnerConfig | None) -> ResolvedJob:
        """Return a copy of the job that also loads a second model. Without a second config, return the
        job itself.
        """
        if second_config is None:
            return self
        other = resolve_job(second_config)
        return replace(self, model=replace(self.model, second=other.model), second=other)

    def copy_with_changed_config_groups(self, **groups: Any) -> ResolvedJob:
        """Return a copy of the job with changed config groups and the same model files."""
        config = replace(self.config, **groups)
        return replace(self, config=config, model=replace(self.model, spec=build_model_spec(config)))


def resolve_job(config: RunnerConfig) -> ResolvedJob:
    """Resolve a job's model and settings. Inside `share_model_files_between_jobs()`, equal models share their
    files.
    """
    resolved = ResolvedJob(config, resolve_model(build_model_spec(config)))
    notes = []
    if config.generation.needs_published_settings:
        generation = apply_published_settings(config.generation, resolved)
        resolved = resolved.copy_with_changed_config_groups(generation=generation)
        notes.append(generation.sources_description)
    task, note = config.task.adapt_to_generation(resolved.config.generation)
    if task is not config.task:
        resolved = resolved.copy_with_changed_config_groups(task=task)
        notes.append(note)
    return replace(resolved, notes=tuple(notes)) if notes else resolved


def apply_published_settings(generation: GenerationConfig, resolved: ResolvedJob) -> GenerationConfig:
    """Return the generation config with the sampling settings that the model's own files recommend."""
    model = resolved.config.model
    kind = get_choice_name(model)
    need = (
        f"sampling settings come from a local model's files, and model={kind} has none. Use "
        "generation=greedy or generation=sampling"
    )
    check_value(model.publishes_settings, "generation", generation.name, need, code="unsupported")
    published = resolved.model.files.published_settings
    if published is None:
        raise ConfigError(
            (
                f"{model.name} has no generation_config.json or .gguf file with sampling "
                "settings. Use generation=greedy or generation=sampling"
            ),
            key="generation",
            value="model",
            code="not_found",
        )
    return generation.apply_published_settings(
        published.values, published.sources, published.file, published.max_new_tokens
    )


def build_model_spec(config: RunnerConfig) -> ModelSpec:
    """Return the engine's model specification for a job whose model runs on this machine."""
    return ModelSpec(
        to_local_model_config(config.model),
        config.quantization,
        config.lora,
        config.rope,
        config.generation,
        config.seed,
        config.task.workload(limit_batch_size(config.task, config.generation)),
        config.mix,
        "".join(list_missing_gpu_warnings(config.profile, "cpu")),
    )


def base_model_key(config: RunnerConfig) -> str:
    """Return a key that identifies the base model without adapters. Jobs with the same key share one
    loaded model.
    """
    return build_model_spec(config).base_key


def list_model_choices() -> list[str]:
    # it reads YAML: only where there is an error to write
    from runner.config.choices import list_choices

    return list_choices("model")


unknown_model.register_model_names(list_model_choices)
