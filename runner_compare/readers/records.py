"""Access to runs that another package stores, such as the runner's jobs, by an entry point.

The group is `runner_compare.readers`; the object with the name `records` opens the runs
that the options select.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner_base import ConfigError, entry_points
from runner_compare.model.data import Run, Table
from runner_compare.model.missing_jobs import GridJobs
from runner_compare.reader import Reader

GROUP, NAME = "runner_compare.readers", "records"
MISSING = (
    "no --results FOLDER: without it runner-compare reads jobs of the runner, which is not installed here: "
    "pip install runner-llm, or give the logs of another tool to --results"
)


@dataclass
class Records:
    """Opened runs, their reader, and where a comparison of them can be logged."""

    runs: list[Run]
    reader: Reader
    # the jobs of the grid that --grid names, or else of the last one
    grid_jobs: GridJobs | None = field(default=None, kw_only=True)
    # the command or address that shows the runs; empty: there is none
    shown_at: str = field(default="", kw_only=True)

    def set_grid_jobs(self, job_ids: Iterable[str]) -> GridJobs:
        """Register the jobs of the grid. The caller adds those without a result to the returned
        object.
        """
        self.grid_jobs = GridJobs(frozenset(job_ids))
        return self.grid_jobs

    def find_log_target(self, runs: Sequence[Run]) -> str:
        """Return where --log stores the comparison of these runs."""
        raise NotImplementedError

    def log_comparison(self, target: str, folder: Path, names: list[str], artifact_folder: str) -> None:
        """Store the files of a comparison at the target of --log."""
        raise NotImplementedError

    def publish_comparison(self, tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
        """Write the output of --publish and return the paths of its files."""
        raise NotImplementedError


class RecordsOpener:
    """Opens the runs that the command-line options select."""

    def open(self, options: argparse.Namespace, scratch: Path) -> Records:
        """Open the runs. Fetched files go to `scratch`. Raises ConfigError if there are no runs."""
        raise NotImplementedError


def open_records(options: argparse.Namespace, scratch: Path) -> Records:
    """Open the runs of the installed package that stores them. Raises ConfigError without one."""
    if NAME not in entry_points.find_entry_points(GROUP):
        raise ConfigError(MISSING, code="needs_package")
    return entry_points.load_entry_point(GROUP, NAME, RecordsOpener).open(options, scratch)
