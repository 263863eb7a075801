"""Helpers for the fields of the schema: the marker of a missing value, texts, fields outside a job's identity."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

MISSING: Any = "???"  # OmegaConf's marker for "the user must say"
Text = Annotated[str, "words for a model"]  # a comma or ${...} is a part of it; a plain str is a name or a place


def inert(default: Any, why: str) -> Any:
    """A field that stays out of the job's identity, and the reason why."""
    return field(default=default, metadata={"inert": why})


HASHED = "a place; the SHA-256 of what lies there counts instead"
