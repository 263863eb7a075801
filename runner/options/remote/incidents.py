"""Failures in model=hybrid that do not end the job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Incident:
    """A failure in model=hybrid that does not end the job. The draft model failed, or a review
    could not be parsed.
    """

    kind: Literal["broke_down", "not_asked", "no_text", "no_json"]
    error: str = ""
