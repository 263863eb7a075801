"""The keys that tell two jobs apart, and the keys that tell two loaded models apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from runner.config.root import RunnerConfig


def base_key(config: RunnerConfig) -> str:
    """Name the base that a job loads, without its adapters: jobs with the same key share one loaded base."""
    parts = [config.model, config.quantization, config.rope]
    if config.lora.merges:
        parts.append(config.lora)  # merging changes the base for good
    return repr(parts)


def semantic_keys(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) for every key that can change the answer, i.e. is not marked inert."""
    assert is_dataclass(config)
    for item in fields(config):
        if "inert" in item.metadata:
            continue
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield from semantic_keys(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value
