"""`runner-sync`: logs to MLflow all recorded results that are missing there.

With --fetch, it also downloads the results of other hosts. Running it twice changes nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from runner.records.jobs import OLD, Job, lock_job
from runner.render.notes import format_note
from runner.tracking import downloaded_jobs, stores, synced_grids
from runner.tracking.sink import MlflowSink
from runner.tracking.stored_runs import StoredRuns, read_stored_runs
from runner_base import (
    ConfigError,
    Progress,
    Record,
    RunnerError,
    Status,
    escape_control_characters,
    format_count,
    print_message,
    run_command,
    signals,
)
from runner_base.command_line import CommandParser
from runner_base.notes import note


def entry() -> NoReturn:
    """Console script entry point. Exits with 0 if everything is logged, otherwise with 1 or 2 and a
    message.
    """
    signals.install_signal_handlers()
    run_command(
        "runner-sync",
        lambda: print(escape_control_characters(sync_finished_jobs_to_mlflow(create_parser().parse_args()))),
    )


def create_parser() -> argparse.ArgumentParser:
    arguments = CommandParser("runner-sync", description=(__doc__ or "").split("`: ")[1])
    arguments.add_argument(
        "--output-dir", default="outputs", help="folder that contains jobs/ (default: %(default)s)"
    )
    arguments.add_argument(
        "--tracking-uri",
        help="MLflow store to log to (default: MLFLOW_TRACKING_URI, else mlflow.db in output-dir)",
    )
    arguments.add_argument(
        "--fetch",
        action="store_true",
        help="also download completed jobs from the MLflow store if the output folder does not contain them",
    )
    arguments.add_argument(
        "--experiment", help="MLflow experiment (default: MLFLOW_EXPERIMENT_NAME, else runner)"
    )
    return arguments


def sync_finished_jobs_to_mlflow(options: argparse.Namespace) -> str:
    """Log all finished jobs of a folder that are missing in the store. Returns a summary."""
    output_dir = Path(options.output_dir).expanduser().absolute()
    if not (output_dir / "jobs").is_dir() and not options.fetch:
        raise ConfigError(
            f"{output_dir / 'jobs'} does not exist",
            key="--output-dir",
            value=options.output_dir,
            code="not_found",
        )
    store = stores.create_store_from_options(output_dir, options.tracking_uri, options.experiment)
    jobs = [Job(file.parent.name, file.parent) for file in sorted(output_dir.glob("jobs/*/result.json"))]
    jobs = [job for job in jobs if OLD not in job.job_id]
    stored = read_stored_runs(store, None if options.fetch else [job.job_id for job in jobs], grid_id="")
    finished: dict[str, Record] = {}
    for job in jobs:
        try:
            if record := read_finished_record(job):
                finished[job.job_id] = record
        except RunnerError as error:
            print_message(f"left out: {error}")
    missing = [job for job in jobs if job.job_id in finished and not stored.find_run(job.job_id, None)]
    grids = synced_grids.collect_grids_to_sync(store)
    grids.assign_jobs(finished)
    parents = grids.start_parent_runs(stored)
    known = {run for runs in stored.grids.values() for run, _ in runs}
    logged = 0
    with Progress(len(missing), "logging", "jobs") as bar:
        for job in missing:
            with lock_job(job):  # waits for a process that is doing this job, or logging it
                if record := read_finished_record(job):
                    parent = parents.get(job.job_id)
                    below = replace(store, parent_run_id=parent) if parent else None
                    below = below or copy_store_with_parent_run(store, record, known)
                    logged += MlflowSink(below, job).log_recorded_result(record)
            bar.advance()
    in_grids = format_count(grids.finish_runs(), "grid")
    where = f"{store.redacted_uri}, experiment {store.experiment}"
    said = (
        f"{logged} results logged to {where}" + (f", in {in_grids}" if grids.runs else "")
        if logged or grids.runs
        else f"{where} already contains every completed job"
    )
    return f"{said}\n{download_missing_jobs(store, stored)}" if options.fetch else said


def download_missing_jobs(store: stores.Store, stored_runs: StoredRuns) -> str:
    """Download all finished jobs that are missing in the folder. Returns a summary."""
    jobs = [Job(job_id, store.output_dir / "jobs" / job_id) for job_id in stored_runs.jobs]
    missing = [job for job in jobs if not is_job_finished(job)]
    fetched = 0
    with Progress(len(missing), "fetching", "jobs") as bar:
        for job in missing:
            run_id = stored_runs.find_run(job.job_id, None)
            with lock_job(job):
                fetched += (
                    run_id is not None and downloaded_jobs.download_run_files(store, run_id, job) is not None
                )
            bar.advance()
    left = f", {len(missing) - fetched} cannot be" if fetched < len(missing) else ""
    if not missing:
        return format_note(note("nothing_to_fetch", folder=store.output_dir))
    return f"{fetched} results fetched{left}"


def is_job_finished(job: Job) -> bool:
    """Return whether a job has a finished record. An unreadable record counts as finished."""
    try:
        return read_finished_record(job) is not None
    except RunnerError as error:
        print_message(f"left out: {error}")
        return True


def read_finished_record(job: Job) -> Record | None:
    """Return a job's record. None if the job is not finished."""
    record = job.read_last_record()
    return record if record and record.status is Status.FINISHED else None


def copy_store_with_parent_run(store: stores.Store, record: Record, grid_run_ids: set[str]) -> stores.Store:
    """Return a copy of the store with the record's parent run, if the store contains that run."""
    parent = record.params.get("tracking.parent_run_id")
    return replace(store, parent_run_id=parent) if parent in grid_run_ids else store


if __name__ == "__main__":
    entry()
