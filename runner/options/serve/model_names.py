"""Names by which requests can select the served model and its adapters."""

from __future__ import annotations

from pathlib import Path

from runner.config.model_names import make_adapter_display_name
from runner.config.root import RunnerConfig
from runner.options.serve.keys import ServeConfig
from runner_base import check_value, short_model_name


def make_served_model_name(config: RunnerConfig, task: ServeConfig) -> str:
    """Return the served model's name: task.model_name, or a name such as `embedded+nf4+lora-embedded`."""
    if task.model_name:
        return task.model_name
    adapter = config.lora.single_adapter
    weights = (
        f"{config.quantization.name}-mixed" if config.quantization.is_mixed else config.quantization.name
    )
    additions = [
        *([weights] if weights != "none" else []),
        *([f"lora-{make_adapter_display_name(config.lora)}"] if adapter else []),
        *([config.rope.name] if config.rope.name != "native" else []),
    ]
    return "+".join([short_model_name(config.model.name), *additions])


def check_adapter_names(config: RunnerConfig, task: ServeConfig) -> None:
    """Raise ConfigError if an adapter has the same name as the base model."""
    taken = list_accepted_model_names(config, task)
    for name in config.lora.adapter_names:
        need = f"clients select the base model by {' and '.join(taken)}. Give the adapter another name"
        check_value(name not in taken, "lora.adapters", name, need, code="conflict")


def list_accepted_model_names(config: RunnerConfig, task: ServeConfig) -> tuple[str, ...]:
    """Return the model names that requests may use.

    That is `task.model_name` only, or the composed name and the model's plain name. A local
    folder is also accepted by the last part of its path.
    """
    served, name = make_served_model_name(config, task), config.model.name
    if task.model_name:
        return (served,)
    last_part = [Path(name).name] if Path(name).expanduser().exists() else []
    return tuple(dict.fromkeys([served, short_model_name(name), *last_part]))
