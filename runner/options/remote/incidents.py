"""Failures of a draft model or of its review, after which the job goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Incident:
    """A failure in model=hybrid after which the job goes on: the draft model failed, or a review
    contained no valid verdict.
    """

    kind: Literal["broke_down", "not_asked", "no_text", "no_json"]
    error: str = ""
