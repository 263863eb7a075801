"""Creates a run's display name from the choices and keys that differ from the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from runner.config.choices import installed_choice_files
from runner.config.model_names import make_adapter_display_name
from runner.config.root import RunnerConfig
from runner.records.flat_config import format_as_override
from runner_base import NotInIdentity, short_model_name
from runner_base.fields import get_choice_name, get_default, get_identity_rule
from runner_engine.quantization.base import QuantizedConfig


def create_run_name(config: RunnerConfig, unique_adapter_name: str = "") -> str:
    """Return a run's display name, such as `gsm8k embedded nf4 hard5 limit=20`.

    The name contains the choices and keys that are not defaults.

    unique_adapter_name: used where the adapter's own name is ambiguous.
    """
    plain = ("none", "native", "greedy")
    names = [config.task.name, short_model_name(config.model.name)]
    called = (
        f"lora={unique_adapter_name or make_adapter_display_name(config.lora)}"
        if config.lora.single_adapter
        else "none"
    )
    choices = [config.quantization.label, called, config.rope.name, config.generation.name]
    names += [choice for choice in choices if choice not in plain]
    names_and_subject = " ".join([*names, config.task.subject]).strip()
    return " ".join(
        [
            names_and_subject,
            *(
                f"{key}={value}"
                for key, value in _iterate_non_default_keys(config)
                if value not in names_and_subject.split()
            ),
        ]
    )


def _iterate_non_default_keys(
    config: object, default_values: Mapping[str, object] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the keys that can change an answer and whose values are neither the default nor set by the
    choice's YAML file.
    """
    assert is_dataclass(config)
    for item in fields(config):
        value = getattr(config, item.name)
        counts = get_identity_rule(item)
        is_inert = isinstance(counts, NotInIdentity) and counts.excludes(value)
        if is_inert or isinstance(value, QuantizedConfig):  # its label is in the name
            continue
        if is_dataclass(value):
            yield from _iterate_non_default_keys(value, _read_choice_yaml(item.name, get_choice_name(value)))
            continue
        default = get_default(item)
        if value not in (default, (default_values or {}).get(item.name, default)):
            yield item.name, format_as_override(value)


def _read_choice_yaml(group: str, choice: str | None) -> dict[str, object]:
    """Return the values in the YAML file of a config group's choice, or {} without such a file."""
    import yaml

    path = next((file for file in installed_choice_files(group) if file.stem == choice), Path())
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
