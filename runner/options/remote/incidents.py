"""Failures between draft model and fallback model that do not end a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Incident:
    """A failure of the draft model, or a review without a valid verdict."""

    kind: Literal["broke_down", "not_asked", "no_text", "no_json"]
    error: str = ""
