"""Finds the jobs of a grid that have no result, and the reasons."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from runner_base import ConfigError, to_one_line
from runner_compare.model.data import Run
from runner_compare.model.selection import NoMatch, filter_runs

LONGEST_REASON = 200  # characters of a reason that a line shows
# options that choose runs from several grids, so that a last grid without a result is not meant
OF_ALL_GRIDS = ("all", "where", "by", "pool", "seeds", "teams")


class JobState(StrEnum):
    """Reason why a job has no result."""

    failed = "failed"
    running = "running"
    interrupted = "interrupted"
    not_started = "not started"
    impossible = "impossible"
    unreadable = "unreadable"


@dataclass(frozen=True)
class MissingJob:
    """A job of a grid that has no result, with the reason."""

    name: str  # the overrides that distinguish it from the other jobs of its grid
    job_id: str  # empty if the job's config is invalid
    state: JobState
    reason: str = ""
    params: Mapping[str, str] | None = None  # None: unknown

    @property
    def message(self) -> str:
        """Name and state of the job and, if known, the reason."""
        reason = to_one_line(self.reason, limit=LONGEST_REASON).rstrip()
        return f"{self.name}: {self.state}" + (f" ({reason})" if reason else "")


@dataclass
class GridJobs:
    """The jobs of one grid, including the jobs that have no result."""

    job_ids: frozenset[str]
    missing: list[MissingJob] = field(default_factory=list)

    def add_missing(
        self, name: str, job_id: str, state: str, reason: str, params: Mapping[str, str] | None
    ) -> None:
        """Add a job without a result. `state` must be a JobState value."""
        self.missing.append(MissingJob(name, job_id, JobState(state), reason, params))

    @property
    def has_result(self) -> bool:
        """Whether any job of the grid has a result."""
        return bool(self.job_ids - {job.job_id for job in self.missing})


def select_missing_jobs(
    options: argparse.Namespace, grid: GridJobs | None, runs: Sequence[Run]
) -> list[MissingJob]:
    """Return the jobs of the grid that have no result.

    The grid is the selected one, or the newest one if its jobs are shown.
    """
    if grid is None or options.runs or options.flips:
        return []
    is_chosen = bool(options.grid) or any(run.job_id in grid.job_ids for run in runs)
    is_default = not any(getattr(options, name) for name in OF_ALL_GRIDS)
    if not is_chosen and (grid.has_result or not is_default):
        return []
    return [job for job in grid.missing if _is_job_selected_by_options(options, job)]


def _is_job_selected_by_options(options: argparse.Namespace, job: MissingJob) -> bool:
    """Return whether --task and --where select a missing job.

    A job with unknown config is always selected.
    """
    task = (job.params or {}).get("task.name") or job.job_id.rpartition("-")[0]
    if options.task and task and task != options.task:
        return False
    if job.params is None:
        return True
    run = Run("", job.job_id, task, "", "", dict(job.params), {})
    for text in options.where:
        try:
            filter_runs([run], text)
        except NoMatch:
            return False
        except ConfigError:  # the filter names a metric, which a job without a result lacks
            continue
    return True


@contextmanager
def mention_missing_jobs(jobs: Sequence[MissingJob]) -> Iterator[None]:
    """Add the missing jobs of the grid to the error message if no run matches."""
    try:
        yield
    except NoMatch as error:
        if not jobs:
            raise
        states = "; ".join(job.message for job in jobs)
        raise ConfigError(
            f"{error.reason}. Jobs of the grid without a result: {states}",
            key=error.key,
            value=error.value,
            code=error.code,
        ) from error


def find_jobs_with_errors(runs: Sequence[Run]) -> list[MissingJob]:
    return [
        MissingJob(run.job_id, run.job_id, JobState.failed, _count_errors_message(run), run.params)
        for run in runs
        if run.errors
    ]


def _count_errors_message(run: Run) -> str:
    of = f" of {run.metrics['n']:.0f}" if "n" in run.metrics else ""
    return f"{run.errors}{of} questions ended in an error"
