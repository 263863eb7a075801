"""The jobs of the compared grid that have no result, each with its state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_base import counted
from runner_compare.features.gates.section import Requirements, failure_lines
from runner_compare.model.comparison import Comparison, Shown
from runner_compare.model.unfinished import MissingJob
from runner_compare.section import Section


@dataclass
class Missing:
    """The missing jobs of a comparison."""

    jobs: list[MissingJob] = field(default_factory=list)


class MissingJobs(Section):
    """Names the jobs that the comparison lacks."""

    def parts(self, comparison: Comparison) -> list[Shown]:
        """Return one part with a line for each missing job; none if all jobs have a result."""
        jobs = comparison.of(Missing).jobs
        if not jobs:
            return []
        title = f"{counted(len(jobs), 'job')} of this grid without a result"
        failed = failure_lines(comparison.of(Requirements).of_rows)
        said = [(job.line, None) for job in jobs]
        return [Shown(title, [], [*said], failed=failed, is_always_shown=True)]

    def record_across(self, comparison: Comparison) -> dict[str, Any]:
        jobs = [
            {"name": job.name, "job_id": job.job_id, "state": job.state.value, "reason": job.reason}
            for job in comparison.of(Missing).jobs
        ]
        return {"missing_jobs": jobs} if jobs else {}


SECTION = MissingJobs()
