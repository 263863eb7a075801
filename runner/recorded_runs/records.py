"""Opens the jobs that a comparison is about: from an output folder, or from a store of MLflow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.recorded_runs.folder_runs import recorded_runs
from runner.recorded_runs.grid_plans import (
    GridPlan,
    add_missing_jobs,
    plan_in_mlflow,
    plan_named,
    plans_in_folder,
)
from runner.recorded_runs.publish_divergences import publish_all
from runner.recorded_runs.run_list import LAST, find_grid, grid_to_log_to, last_grid, load_runs, runs_of
from runner.recorded_runs.sample_reader import SampleReader
from runner.recorded_runs.which_store import store_to_read
from runner.tracking.job_runs import log_files
from runner.tracking.stored_runs import open_to_read
from runner.tracking.stores import Store
from runner_base import ConfigError
from runner_compare import Opener, Records, Run, Table

MAX_NAMED = 6  # jobs in a message


@dataclass
class Jobs(Records):
    """Jobs of an output folder or of a store of MLflow."""

    client: Any  # None: only the folder's jobs have recorded anything
    grid: str | None = None  # the MLflow run of the grid that --grid has named

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
            return _open_folder(options, output_dir, scratch)
        client, options.experiment = open_to_read(store), store.experiment
        reader = SampleReader(client, output_dir, scratch)
        if options.grid:
            grid = find_grid(client, options.experiment, options.grid)
            plan = plan_in_mlflow(client, grid, scratch)
            runs = runs_of(client, store, grid, plan)
        else:
            grid, runs = None, load_runs(client, store)
            plan = None if options.runs else _last_plan(client, store, scratch)
        jobs = Jobs(runs, reader, client, grid)
        if plan is not None:
            add_missing_jobs(jobs, plan, output_dir, client, store)
        _check_any_finished(jobs, options.grid)
        return jobs


def _open_folder(options: argparse.Namespace, output_dir: Path, scratch: Path) -> Records:
    """Return the jobs of a folder that no MLflow database belongs to."""
    if options.log:
        raise ConfigError(
            f"{output_dir} has no MLflow database, only records of jobs", key="--log", code="not_found"
        )
    reader = SampleReader(None, output_dir, scratch)
    plan: GridPlan | None
    if options.grid:
        plan = plan_named(output_dir, options.grid, LAST)
        runs = recorded_runs(output_dir, plan.job_ids)
    else:
        runs, plan = recorded_runs(output_dir), next(iter(plans_in_folder(output_dir)), None)
    jobs = Jobs(runs, reader, None)
    if plan is not None:
        add_missing_jobs(jobs, plan, output_dir)
    _check_any_finished(jobs, options.grid)
    return jobs


def _last_plan(client: Any, store: Store, scratch: Path) -> GridPlan | None:
    """Return the plan of the grid that was started last; None if there is no grid."""
    if store.is_own and (plans := plans_in_folder(store.output_dir)):
        return next((plan for plan in plans if plan.experiment == store.experiment), None)
    grid = last_grid(client, store.experiment)
    return plan_in_mlflow(client, grid, scratch) if grid else None


def _check_any_finished(jobs: Jobs, grid: str) -> None:
    """Raise ConfigError with the states of a grid's jobs if none of them has finished."""
    if jobs.runs:
        return
    missing = jobs.grid_jobs.missing[:MAX_NAMED] if jobs.grid_jobs else []
    states = f": {'; '.join(job.line for job in missing)}" if missing else ""
    raise ConfigError(f"--grid {grid}: none of its jobs has finished{states}", code="empty")


OPENER = JobsOpener()
