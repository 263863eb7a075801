"""What clients call the model of a server."""

from __future__ import annotations

from pathlib import Path

from runner.config.lora import adapter_of
from runner.config.root import RunnerConfig
from runner.config.task import ServeConfig


def plain_name(config: RunnerConfig) -> str:
    """Return the model's own name, of a folder its last part."""
    name = config.model.name
    return Path(name).name if Path(name).expanduser().exists() else name


def served_name(config: RunnerConfig, task: ServeConfig) -> str:
    """Return the name that is given, or the model's own with what was put on it: `embedded+nf4+lora-embedded+yarn`."""
    if task.model_name:
        return task.model_name
    adapter = adapter_of(config.lora)
    put_on = [
        *([config.quantization.name] if config.quantization.name != "none" else []),
        *([f"lora-{Path(adapter.path).stem}"] if adapter else []),
        *([config.rope.name] if config.rope.name != "native" else []),
    ]
    return "+".join([plain_name(config), *put_on])


def accepted_names(config: RunnerConfig, task: ServeConfig) -> tuple[str, ...]:
    """Return the names that requests may give: a name that is given counts alone, beside a made one the plain one."""
    served = served_name(config, task)
    return (served,) if task.model_name else tuple(dict.fromkeys([served, plain_name(config)]))
