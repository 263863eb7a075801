"""Config key `notes`: names and values that the user defines. They are recorded and shown, and never
change a job's id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from runner_base import ConfigError
from runner_base.fields import NOTES

NAME = re.compile(r"[A-Za-z_][\w-]*")  # what a store takes as a part of a name
Plain = str | int | float | bool | None


def check_notes(notes: Mapping[str, Any]) -> None:
    """Reject notes whose names MLflow does not accept, and values other than scalars and lists."""
    if not isinstance(notes, Mapping):  # an interpolation, which OmegaConf does not check
        raise ConfigError(
            f"notes must be a mapping from names to values. Use +{NOTES}.NAME=VALUE",
            key=NOTES,
            value=notes,
            code="bad_value",
        )
    for key, value in flatten_notes(notes):
        for part in key.split("."):
            if NAME.fullmatch(part) is None:
                raise ConfigError(
                    f"{part!r} is no valid note name. Use letters, digits, _ and -, and begin with a letter",
                    key=NOTES,
                    code="bad_value",
                )
        if not isinstance(value, Plain):
            raise ConfigError(
                f"expected a text, a number, true or false, not {value!r}",
                key=f"{NOTES}.{key}",
                code="bad_value",
            )


def flatten_notes(notes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in notes.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten_notes(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value))
        else:
            yield name, value
