"""Access to runs that another package stores, such as the runner's jobs.

An entry point names the package.

The group is `runner_compare.readers`; the object with the name `records` opens the runs
that the options select.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner_base import ConfigError, entry_points
from runner_compare.model.data import Run, Table
from runner_compare.model.missing_jobs import GridJobs
from runner_compare.reader import Reader

GROUP, NAME = "runner_compare.readers", "records"
MISSING = (
    "runner-compare cannot read runner jobs, because the runner is not installed. Install it with "
    "`pip install runner-llm`, or compare files of other tools with --results"
)


@dataclass
class Records:
    """Stored runs with their reader, and the targets of the options --log and --publish."""

    runs: list[Run]
    reader: Reader
    # the jobs of the grid that --grid names, or else of the last one
    grid_jobs: GridJobs | None = field(default=None, kw_only=True)
    # the command or address that shows the runs; empty: there is none
    shown_at: str = field(default="", kw_only=True)

    def register_grid_jobs(self, job_ids: Iterable[str]) -> GridJobs:
        """Register the jobs of a grid.

        The caller adds jobs without a result to the returned object.
        """
        self.grid_jobs = GridJobs(frozenset(job_ids))
        return self.grid_jobs

    def find_log_target(self, runs: Sequence[Run]) -> str:
        """Return the location to which --log writes the comparison of these runs."""
        raise NotImplementedError

    def log_comparison(self, target: str, folder: Path, names: list[str], artifact_folder: str) -> None:
        raise NotImplementedError

    def log_verdicts(self, verdicts: Mapping[str, tuple[str, Mapping[str, float]]]) -> None:
        """Log a gate's verdict and its numbers to each run."""
        raise NotImplementedError

    def publish_comparison(self, tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
        raise NotImplementedError


class RecordsOpener:
    """Interface of a package that stores runs: it opens the runs that the command's options select."""

    def open(self, options: argparse.Namespace, scratch: Path) -> Records:
        """Open the runs that the options select. Downloads go to `scratch`. Raises ConfigError if there
        are no runs.
        """
        raise NotImplementedError


def open_recorded_runs(options: argparse.Namespace, scratch: Path) -> Records:
    """Open runs with the installed package that stores them. Raises ConfigError if no such package is
    installed.
    """
    if NAME not in entry_points.find_entry_points(GROUP):
        raise ConfigError(MISSING, code="needs_package")
    return entry_points.load_entry_point(GROUP, NAME, RecordsOpener).open(options, scratch)
