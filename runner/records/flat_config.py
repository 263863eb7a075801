"""Flattens a nested config to text values by full key, such as `model.name`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from runner.config.user_notes import flatten_notes
from runner_base import redact_secrets
from runner_base.fields import NOTES, get_choice_name


def flatten_config(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the full key and text value of every config key, with interpolations resolved."""
    assert is_dataclass(config)
    if (choice := get_choice_name(config)) is not None:
        yield f"{prefix}name", choice
    for item in fields(config):
        value = getattr(config, item.name)
        if not prefix and item.name == NOTES:
            yield from ((f"{NOTES}.{key}", format_config_value(note)) for key, note in flatten_notes(value))
        elif is_dataclass(value):
            yield from flatten_config(value, f"{prefix}{item.name}.")
        else:
            text = format_as_override(value) if prefix == "quantization." else format_config_value(value)
            yield f"{prefix}{item.name}", redact_secrets(text) if prefix == "tracking." else text


def format_as_override(value: object) -> str:
    """Format a value as on the command line, such as {down_proj: int8} or [lm_head]."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {format_as_override(item)}" for key, item in value.items()) + "}"
    return (
        f"[{', '.join(map(format_as_override, value))}]"
        if isinstance(value, list)
        else format_config_value(value)
    )


def format_config_value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
