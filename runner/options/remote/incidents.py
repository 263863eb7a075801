"""What goes wrong between student and teacher, and ends no job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Incident:
    """A failure of the student, or a review that is none."""

    kind: Literal["broke_down", "not_asked", "no_text", "no_json"]
    error: str = ""
