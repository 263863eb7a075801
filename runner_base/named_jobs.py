"""References to another job, as stored in the facts of a record."""

from __future__ import annotations

from dataclasses import dataclass

SEPARATOR = " · "


@dataclass(frozen=True)
class JobReference:
    """A reference to another job: the user's text (overrides or an id), and the job id."""

    named_as: str  # empty: by its id
    job_id: str  # of a model that was loaded beside this one: a description

    def to_fact(self) -> str:
        return f"{self.named_as}{SEPARATOR}{self.job_id}" if self.named_as else self.job_id

    @classmethod
    def from_fact(cls, fact: str) -> JobReference:
        named_as, _, job_id = fact.rpartition(SEPARATOR)
        return cls(named_as, job_id)
