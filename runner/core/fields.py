"""Helpers for the fields of the schema: the marker of a missing value, free texts, fields outside a job's identity."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from typing import Annotated, Any

MISSING: Any = "???"  # OmegaConf's marker for a value that the user must give
Text = Annotated[str, "words for a model"]  # a comma or ${...} is a part of it; a plain str is a name or a path
Names = Annotated[Any, "a name or a list of names"]  # OmegaConf has no type for it


def inert(default: Any, why: str, measured: bool = False) -> Any:
    """Return a field that is not in the job's identity, and the reason; `measured`: it affects times or costs."""
    return field(default=default, metadata={"inert": why, "measured": measured})


def counts_unless(default: Any) -> Any:
    """Return a field that is in the job's identity unless it has its default: older jobs without it keep their ids."""
    return field(default=default, metadata={"counts_unless": default})


def counts_as(default: Any, value: Any) -> Any:
    """Return a field whose default is in the job's identity as another value: older jobs with that keep their ids."""
    return field(default=default, metadata={"counts_as": value})


def choice_of(config: object) -> str | None:
    """Return the name of the choice that a group's class defines; None if it has none, or if the name is a key."""
    if not is_dataclass(config) or any(item.name == "name" for item in fields(config)):
        return None
    kind = config if isinstance(config, type) else type(config)
    name: str | None = getattr(kind, "name", None)
    return name


HASHED = "a location; the SHA-256 of the content counts instead"
