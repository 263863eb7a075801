"""Opens the jobs to compare, from an output folder or an MLflow store."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.recorded_runs.folder_runs import load_recorded_runs
from runner.recorded_runs.grid_plans import (
    GridPlan,
    add_grid_jobs_without_result,
    download_grid_plan,
    find_grid_plan_in_folder,
    load_folder_plans,
)
from runner.recorded_runs.publish_divergences import publish_accuracies_and_divergences
from runner.recorded_runs.run_list import (
    LAST,
    find_grid_run,
    find_last_grid_run,
    load_grid_job_runs,
    load_runs_from_mlflow_store,
    require_single_grid_id,
)
from runner.recorded_runs.sample_reader import SampleReader
from runner.recorded_runs.store_choice import choose_store_to_read
from runner.tracking.job_runs import log_comparison_files, log_verdict
from runner.tracking.stored_runs import open_mlflow_client_for_reading
from runner.tracking.stores import Store, format_mlflow_url_or_command
from runner_base import ConfigError
from runner_compare import Records, RecordsOpener, Run, Table

MAX_NAMED = 6  # jobs in a message


@dataclass
class RecordedJobs(Records):
    """Recorded jobs in an output folder or an MLflow store."""

    client: Any  # None: only the folder's jobs have recorded anything
    grid: str | None = None  # the MLflow run of the grid that --grid has named

    def find_log_target(self, runs: Sequence[Run]) -> str:
        return self.grid or require_single_grid_id([*runs])

    def log_comparison(self, target: str, folder: Path, names: list[str], artifact_folder: str) -> None:
        """Add the files of a comparison to the artifacts of a grid's MLflow run."""
        log_comparison_files(self.client, target, folder, names, artifact_folder)

    def log_verdicts(self, verdicts: Mapping[str, tuple[str, Mapping[str, float]]]) -> None:
        """Log a gate's verdict as a tag, and its numbers as metrics, to each run."""
        if self.client is None:
            raise ConfigError(
                "the jobs were recorded without MLflow, so no verdict can be logged",
                key="--log",
                code="not_found",
            )
        for run_id, (verdict, numbers) in verdicts.items():
            log_verdict(self.client, run_id, verdict, numbers)

    def publish_comparison(self, tables: Sequence[Table], folder: Path, benchmark: str) -> list[Path]:
        return publish_accuracies_and_divergences(tables, folder, benchmark)


class JobsOpener(RecordsOpener):
    """Opens the recorded jobs that the command line options of a comparison select."""

    def open(self, options: argparse.Namespace, scratch: Path) -> Records:
        """Load the finished jobs that the options select. Also sets `options.experiment`."""
        output_dir = Path(options.output_dir).expanduser().absolute()
        store = choose_store_to_read(output_dir, options.tracking_uri, options.experiment)
        if store is None:
            return _open_folder_jobs(options, output_dir, scratch)
        client, options.experiment = open_mlflow_client_for_reading(store), store.experiment
        reader = SampleReader(client, output_dir, scratch)
        if options.grid:
            grid = find_grid_run(client, options.experiment, options.grid)
            plan = download_grid_plan(client, grid, scratch)
            runs = load_grid_job_runs(client, store, grid, plan)
        else:
            grid, runs = None, load_runs_from_mlflow_store(client, store)
            plan = None if options.runs else _find_last_grid_plan(client, store, scratch)
        jobs = RecordedJobs(runs, reader, client, grid, shown_at=format_mlflow_url_or_command(store.uri))
        if plan is not None:
            add_grid_jobs_without_result(jobs, plan, output_dir, client, store)
        _require_finished_jobs(jobs, options.grid)
        return jobs


def _open_folder_jobs(options: argparse.Namespace, output_dir: Path, temp_folder: Path) -> Records:
    """Return the recorded jobs of an output folder without an MLflow database."""
    if options.log:
        raise ConfigError(
            f"{output_dir} has only job records. --log needs an MLflow database",
            key="--log",
            code="not_found",
        )
    reader = SampleReader(None, output_dir, temp_folder)
    plan: GridPlan | None
    if options.grid:
        plan = find_grid_plan_in_folder(output_dir, options.grid, LAST)
        runs = load_recorded_runs(output_dir, plan.job_ids)
    else:
        runs, plan = load_recorded_runs(output_dir), next(iter(load_folder_plans(output_dir)), None)
    jobs = RecordedJobs(runs, reader, None)
    if plan is not None:
        add_grid_jobs_without_result(jobs, plan, output_dir)
    _require_finished_jobs(jobs, options.grid)
    return jobs


def _find_last_grid_plan(client: Any, store: Store, temp_folder: Path) -> GridPlan | None:
    if store.is_default_database and (plans := load_folder_plans(store.output_dir)):
        return next((plan for plan in plans if plan.experiment == store.experiment), None)
    grid = find_last_grid_run(client, store.experiment)
    return download_grid_plan(client, grid, temp_folder) if grid else None


def _require_finished_jobs(jobs: RecordedJobs, grid_name: str) -> None:
    """Raise ConfigError if no job of a grid has finished. The error lists the states of the jobs."""
    if jobs.runs:
        return
    missing = jobs.grid_jobs.missing[:MAX_NAMED] if jobs.grid_jobs else []
    states = f": {'; '.join(job.message for job in missing)}" if missing else ""
    raise ConfigError(f"--grid {grid_name}: none of its jobs is complete{states}", code="empty")


OPENER = JobsOpener()
