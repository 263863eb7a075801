"""The runs that another package keeps, such as the runner's jobs: handed over by an entry point.

The group is `runner_compare.readers`; the object behind its name `records` opens what the options
name.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner_base import ConfigError, doors
from runner_compare.model.data import Run, Table
from runner_compare.model.unfinished import GridJobs
from runner_compare.reader import Reader

GROUP, NAME = "runner_compare.readers", "records"
MISSING = (
    "no --results FOLDER: without it runner-compare reads jobs of the runner, which is not installed here: "
    "pip install runner-llm, or give the logs of another tool to --results"
)


@dataclass
class Records:
    """The runs that were opened, what reads them, and where a comparison of them can go."""

    runs: list[Run]
    reader: Reader
    # the jobs of the grid that --grid names, or else of the last one
    grid_jobs: GridJobs | None = field(default=None, kw_only=True)

    def list_jobs(self, job_ids: Iterable[str]) -> GridJobs:
        """Note which jobs the grid has; those without a result are then added to what this
        returns."""
        self.grid_jobs = GridJobs(frozenset(job_ids))
        return self.grid_jobs

    def target_of(self, runs: Sequence[Run]) -> str:
        """Return what --log adds the comparison of these runs to."""
        raise NotImplementedError

    def log(self, target: str, folder: Path, names: list[str], artifact_folder: str) -> None:
        """Add the files of a comparison to what `target_of` has named (--log)."""
        raise NotImplementedError

    def publish(self, tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
        """Write what --publish writes; return the paths of the files."""
        raise NotImplementedError


class Opener:
    """Opens the runs that the options of the command line name."""

    def open(self, options: argparse.Namespace, scratch: Path) -> Records:
        """Return the runs; raises ConfigError if there are none. What has to be fetched goes to
        `scratch`."""
        raise NotImplementedError


def open_records(options: argparse.Namespace, scratch: Path) -> Records:
    """Return the runs of the package that keeps some; ConfigError if none is installed."""
    if NAME not in doors.entries(GROUP):
        raise ConfigError(MISSING, code="needs_package")
    return doors.load(GROUP, NAME, Opener).open(options, scratch)
