"""The name of the model that a server has."""

from __future__ import annotations

from pathlib import Path

from runner.config.model_names import adapter_name
from runner.config.root import RunnerConfig
from runner.options.serve.keys import ServeConfig
from runner_base import check, short_name


def served_name(config: RunnerConfig, task: ServeConfig) -> str:
    """Return `task.model_name`, or the model's own name with its additions:
    `embedded+nf4+lora-embedded+yarn`."""
    if task.model_name:
        return task.model_name
    adapter = config.lora.adapter
    weights = (
        f"{config.quantization.name}-mixed" if config.quantization.is_mixed else config.quantization.name
    )
    additions = [
        *([weights] if weights != "none" else []),
        *([f"lora-{adapter_name(config.lora)}"] if adapter else []),
        *([config.rope.name] if config.rope.name != "native" else []),
    ]
    return "+".join([short_name(config.model.name), *additions])


def check_names(config: RunnerConfig, task: ServeConfig) -> None:
    """Reject an adapter that has the name of the base, which a request could not tell apart."""
    taken = accepted_names(config, task)
    for name in config.lora.names:
        need = f"clients call the base {' and '.join(taken)}: give the adapter another name"
        check(name not in taken, "lora.adapters", name, need, code="conflict")


def accepted_names(config: RunnerConfig, task: ServeConfig) -> tuple[str, ...]:
    """Return the names that requests may use: `task.model_name` alone, or the composed and the
    plain name.

    A folder is known by the last part of its path, too, however little this says.
    """
    served, name = served_name(config, task), config.model.name
    if task.model_name:
        return (served,)
    last_part = [Path(name).name] if Path(name).expanduser().exists() else []
    return tuple(dict.fromkeys([served, short_name(name), *last_part]))
