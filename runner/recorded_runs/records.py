"""Opens the jobs that a comparison is about: from an output folder, or from a store of MLflow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.recorded_runs.folder_runs import recorded_runs
from runner.recorded_runs.publish_divergences import publish_all
from runner.recorded_runs.run_list import find_grid, grid_to_log_to, load_runs, runs_of
from runner.recorded_runs.sample_reader import SampleReader
from runner.recorded_runs.which_store import store_to_read
from runner.store.stored_runs import open_to_read
from runner.store.tracking import log_files
from runner_base import ConfigError
from runner_compare import Opener, Records, Run, Table


@dataclass
class Jobs(Records):
    """Jobs of an output folder or of a store of MLflow."""

    client: Any  # None: only the folder's jobs have recorded anything
    grid: str | None = None  # which --grid has named

    def target_of(self, runs: Sequence[Run]) -> str:
        """Return the MLflow run of the grid that all these runs belong to."""
        return self.grid or grid_to_log_to([*runs])

    def log(self, target: str, folder: Path, names: list[str], artifact_folder: str) -> None:
        """Add the files of a comparison to the artifacts of a grid's run."""
        log_files(self.client, target, folder, names, artifact_folder)

    def publish(self, tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
        """Write what --publish writes; return the paths of the files."""
        return publish_all(tables, folder, benchmark)


class JobsOpener(Opener):
    """Opens jobs by the options of the command line."""

    def open(self, options: argparse.Namespace, scratch: Path) -> Records:
        """Return the finished jobs; the name of their experiment is noted in the options, for the
        page."""
        output_dir = Path(options.output_dir).expanduser().absolute()
        store = store_to_read(output_dir, options.tracking_uri, options.experiment)
        if store is None:
            if given := next(
                (f"--{name}" for name in ("grid", "log") if getattr(options, name)), ""
            ):
                raise ConfigError(
                    f"{given}: {output_dir} has no MLflow database, only records of jobs"
                )
            return Jobs(recorded_runs(output_dir), SampleReader(None, output_dir, scratch), None)
        client, options.experiment = open_to_read(store), store.experiment
        grid = find_grid(client, options.experiment, options.grid) if options.grid else None
        runs = runs_of(client, store, grid, scratch) if grid else load_runs(client, store)
        return Jobs(runs, SampleReader(client, output_dir, scratch), client, grid)


OPENER = JobsOpener()
