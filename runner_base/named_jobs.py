"""Data class for a reference from one job to another, as stored in records."""

from __future__ import annotations

from dataclasses import dataclass

SEPARATOR = " · "


@dataclass(frozen=True)
class JobReference:
    """Reference to another job: its job id, and the user's text (overrides or a job id)."""

    named_as: str  # empty: by its id
    job_id: str  # of a model that was loaded beside this one: a description

    def to_fact(self) -> str:
        return f"{self.named_as}{SEPARATOR}{self.job_id}" if self.named_as else self.job_id

    @classmethod
    def from_fact(cls, fact: str) -> JobReference:
        named_as, _, job_id = fact.rpartition(SEPARATOR)
        return cls(named_as, job_id)
