"""Report section with the jobs of a grid that have no result."""

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
    jobs: list[MissingJob] = field(default_factory=list)


class MissingJobsSection(Section):
    """Report section that lists the jobs without a result."""

    def cross_task_parts(self, comparison: Comparison) -> list[ReportPart]:
        """Return a report part with one line per job without a result. Empty if every job has a
        result.
        """
        jobs = comparison.get_section_data(ComparisonMissingJobs).jobs
        if not jobs:
            return []
        title = f"{format_count(len(jobs), 'job of this grid has', 'jobs of this grid have')} no result"
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
