"""Failures with model=hybrid that the job survives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Incident:
    """A failure that a model=hybrid job survives: the draft model failed, or a review was not valid JSON."""

    kind: Literal["broke_down", "not_asked", "no_text", "no_json"]
    error: str = ""
