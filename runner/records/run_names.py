"""A run's name: the choices and keys that are not the usual ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from runner.config.choices import own_files
from runner.config.model_names import adapter_name
from runner.config.root import RunnerConfig
from runner.records.flat_config import as_typed
from runner_base import Inert, short_name
from runner_base.fields import choice_of, counts_of, default_of
from runner_engine.quantization.base import Quantized


def run_name(config: RunnerConfig, adapter: str = "") -> str:
    """Return a run's name: the choices and keys that are not the usual ones, `gsm8k embedded nf4
    hard5 limit=20`.

    adapter: what to call its adapter, where the adapter's own name does not tell it from another.
    """
    plain = ("none", "native", "greedy")
    names = [config.task.name, short_name(config.model.name)]
    called = f"lora={adapter or adapter_name(config.lora)}" if config.lora.adapter else "none"
    choices = [config.quantization.label, called, config.rope.name, config.generation.name]
    names += [choice for choice in choices if choice not in plain]
    names_and_subject = " ".join([*names, config.task.subject]).strip()
    return " ".join(
        [
            names_and_subject,
            *(
                f"{key}={value}"
                for key, value in _unusual_keys(config)
                if value not in names_and_subject.split()
            ),
        ]
    )


def _unusual_keys(config: object, usual: Mapping[str, object] | None = None) -> Iterator[tuple[str, str]]:
    """Yield each key that can change an answer and has not the default value, of its class or of
    its choice's file."""
    assert is_dataclass(config)
    for item in fields(config):
        value = getattr(config, item.name)
        counts = counts_of(item)
        is_inert = isinstance(counts, Inert) and counts.covers(value)
        if is_inert or isinstance(value, Quantized):  # its label is in the name
            continue
        if is_dataclass(value):
            yield from _unusual_keys(value, _of_file(item.name, choice_of(value)))
            continue
        default = default_of(item)
        if value not in (default, (usual or {}).get(item.name, default)):
            yield item.name, as_typed(value)


def _of_file(group: str, choice: str | None) -> dict[str, object]:
    """Return the values in the file of a choice; nothing for those of a plug-in."""
    import yaml

    path = next((file for file in own_files(group) if file.stem == choice), Path())
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
