"""A job after composing: its config, what the engine is asked for, and what its model's files
tell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from runner.config.profiles import notes as profile_notes
from runner.config.root import RunnerConfig
from runner.config.task import with_possible_batch
from runner_base import ConfigError, check
from runner_base.fields import choice_of
from runner_engine import GenerationConfig, ModelSpec, ResolvedModel, local_model
from runner_engine import resolve as resolve_model
from runner_engine.checkpoints import no_model


@dataclass(frozen=True)
class ResolvedJob:
    """A job after composing: its config, the model that it asks for, and what its keys have come to."""

    config: RunnerConfig
    model: ResolvedModel
    second: ResolvedJob | None = None  # whose model is loaded beside this one
    notes: tuple[str, ...] = ()

    def beside(self, second: RunnerConfig | None) -> ResolvedJob:
        """Return the job with a second model that is loaded beside its own; without a second one, itself."""
        if second is None:
            return self
        other = resolve(second)
        return replace(self, model=replace(self.model, second=other.model), second=other)

    def having(self, **groups: Any) -> ResolvedJob:
        """Return the job with other groups of the config, and the same files."""
        config = replace(self.config, **groups)
        return replace(self, config=config, model=replace(self.model, spec=spec_of(config)))


def resolve(config: RunnerConfig) -> ResolvedJob:
    """Return what is known of a job; within `sharing`, jobs with the same model and adapter have
    the same files."""
    resolved = ResolvedJob(config, resolve_model(spec_of(config)))
    notes = []
    if config.generation.is_open:
        generation = as_published(config.generation, resolved)
        resolved = resolved.having(generation=generation)
        notes.append(generation.words)
    task, note = config.task.asked_with(resolved.config.generation)
    if task is not config.task:
        resolved = resolved.having(task=task)
        notes.append(note)
    return replace(resolved, notes=tuple(notes)) if notes else resolved


def as_published(generation: GenerationConfig, resolved: ResolvedJob) -> GenerationConfig:
    """Return generation=model with the values of the model's own files."""
    model = resolved.config.model
    kind = choice_of(model)
    need = f"model={kind} has no files here that say how its answers are drawn: use generation=greedy or sampling"
    check(model.publishes_settings, "generation", generation.name, need, code="unsupported")
    published = resolved.model.files.published
    if published is None:
        raise ConfigError(
            f"{model.name} has no generation_config.json, and no .gguf file that says how its "
            "answers are drawn: use generation=greedy or sampling",
            key="generation",
            value="model",
            code="not_found",
        )
    return generation.closed(published.values, published.sources, published.file, published.max_new_tokens)


def spec_of(config: RunnerConfig) -> ModelSpec:
    """Return what the engine is asked for by a job whose model runs on this machine."""
    return ModelSpec(
        local_model(config.model),
        config.quantization,
        config.lora,
        config.rope,
        config.generation,
        config.seed,
        config.task.workload(with_possible_batch(config.task, config.generation)),
        config.mix,
        "".join(profile_notes(config.profile, "cpu")),
    )


def base_key(config: RunnerConfig) -> str:
    """Return a key of the base that a job loads, without its adapters: jobs with the same key share
    one loaded base."""
    return spec_of(config).base_key


def choices_of_model() -> list[str]:
    """Return the names of the group's choices, which an error about an unknown model suggests."""
    # it reads YAML: only where there is an error to write
    from runner.config.choices import choices_for

    return choices_for("model")


no_model.offer_names(choices_of_model)
