"""The name of the model that a server has."""

from __future__ import annotations

from pathlib import Path

from runner.config.lora import adapter_of
from runner.config.root import RunnerConfig
from runner.config.task import ServeConfig


def plain_name(config: RunnerConfig) -> str:
    """Return the model's own name; for a folder, the last part of its path."""
    name = config.model.name
    return Path(name).name if Path(name).expanduser().exists() else name


def served_name(config: RunnerConfig, task: ServeConfig) -> str:
    """Return `task.model_name`, or the model's own name with its additions: `embedded+nf4+lora-embedded+yarn`."""
    if task.model_name:
        return task.model_name
    adapter = adapter_of(config.lora)
    weights = f"{config.quantization.name}-mixed" if config.quantization.is_mixed else config.quantization.name
    additions = [
        *([weights] if weights != "none" else []),
        *([f"lora-{Path(adapter.path).stem}"] if adapter else []),
        *([config.rope.name] if config.rope.name != "native" else []),
    ]
    return "+".join([plain_name(config), *additions])


def accepted_names(config: RunnerConfig, task: ServeConfig) -> tuple[str, ...]:
    """Return the names that requests may use: `task.model_name` alone, or the composed and the plain name."""
    served = served_name(config, task)
    return (served,) if task.model_name else tuple(dict.fromkeys([served, plain_name(config)]))
