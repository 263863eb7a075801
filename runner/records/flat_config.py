"""A config as flat text: the params of a record, by full keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from runner.config.own_notes import flat_notes
from runner_base import without_secrets
from runner_base.fields import NOTES, choice_of


def flatten(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every resolved key with its value as text."""
    assert is_dataclass(config)
    if (choice := choice_of(config)) is not None:
        yield f"{prefix}name", choice
    for item in fields(config):
        value = getattr(config, item.name)
        if not prefix and item.name == NOTES:
            yield from ((f"{NOTES}.{key}", text_of(note)) for key, note in flat_notes(value))
        elif is_dataclass(value):
            yield from flatten(value, f"{prefix}{item.name}.")
        else:
            text = as_typed(value) if prefix == "quantization." else text_of(value)
            yield f"{prefix}{item.name}", without_secrets(text) if prefix == "tracking." else text


def as_typed(value: object) -> str:
    """Return a value as on the command line, without the quotes of Python: {down_proj: int8},
    [lm_head]."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_typed(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(as_typed, value))}]" if isinstance(value, list) else text_of(value)


def text_of(value: object) -> str:
    """Return a value of a config as a record has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
