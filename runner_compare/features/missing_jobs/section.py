"""Section with the jobs of the compared grid that have no result, and their states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner_base import format_count
from runner_compare.features.gates.section import Requirements, format_unmet_requirements
from runner_compare.model.comparison import Comparison, ReportPart
from runner_compare.model.missing_jobs import MissingJob
from runner_compare.section import Section


@dataclass
class ComparisonMissingJobs:
    """Holds the missing jobs of a comparison."""

    jobs: list[MissingJob] = field(default_factory=list)


class MissingJobsSection(Section):
    """Report section with the jobs that have no result."""

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        """Return one part with a line per missing job; [] if all jobs have a result."""
        jobs = comparison.get_section_data(ComparisonMissingJobs).jobs
        if not jobs:
            return []
        title = f"{format_count(len(jobs), 'job')} of this grid without a result"
        failed = format_unmet_requirements(comparison.get_section_data(Requirements).of_rows)
        said = [(job.message, None) for job in jobs]
        return [ReportPart(title, [], [*said], failed=failed, is_always_shown=True)]

    def comparison_record(self, comparison: Comparison) -> dict[str, Any]:
        jobs = [
            {"name": job.name, "job_id": job.job_id, "state": job.state.value, "reason": job.reason}
            for job in comparison.get_section_data(ComparisonMissingJobs).jobs
        ]
        return {"missing_jobs": jobs} if jobs else {}


SECTION = MissingJobsSection()
