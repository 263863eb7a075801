"""`runner-sync`: log recorded results to MLflow that it does not have yet; with --fetch, also get the results of other
hosts from there. Running it twice changes nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from runner.records.jobs import OLD, Job, claim
from runner.render.notes import note_text
from runner.tracking import fetched_jobs, stores, synced_grids
from runner.tracking.sink import MlflowSink
from runner.tracking.stored_runs import StoredRuns, read_runs
from runner_base import (
    ConfigError,
    Progress,
    Record,
    RunnerError,
    Status,
    counted,
    plain,
    run_entry,
    say,
    signals,
)
from runner_base.command_line import CommandParser
from runner_base.notes import note


def entry() -> NoReturn:
    """Console script: exit with 0 if everything is logged, otherwise with 1 or 2 and a message."""
    signals.install_handlers()
    run_entry("runner-sync", lambda: print(plain(sync(parser().parse_args()))))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    arguments = CommandParser("runner-sync", description=(__doc__ or "").split("`: ")[1])
    arguments.add_argument(
        "--output-dir", default="outputs", help="folder that holds jobs/ (default: %(default)s)"
    )
    arguments.add_argument(
        "--tracking-uri",
        help="MLflow store to log to (default: MLFLOW_TRACKING_URI, else mlflow.db in output-dir)",
    )
    arguments.add_argument(
        "--fetch",
        action="store_true",
        help="also fetch the finished jobs of the store that the folder does not have",
    )
    arguments.add_argument(
        "--experiment", help="MLflow experiment (default: MLFLOW_EXPERIMENT_NAME, else runner)"
    )
    return arguments


def sync(options: argparse.Namespace) -> str:
    """Log every finished job of a folder that the store does not have; return a sentence about what
    was done."""
    output_dir = Path(options.output_dir).expanduser().absolute()
    if not (output_dir / "jobs").is_dir() and not options.fetch:
        raise ConfigError(
            f"there is no {output_dir / 'jobs'}",
            key="--output-dir",
            value=options.output_dir,
            code="not_found",
        )
    store = stores.store_from_options(output_dir, options.tracking_uri, options.experiment)
    jobs = [Job(file.parent.name, file.parent) for file in sorted(output_dir.glob("jobs/*/result.json"))]
    jobs = [job for job in jobs if OLD not in job.job_id]
    stored = read_runs(store, None if options.fetch else [job.job_id for job in jobs], grid="")
    finished: dict[str, Record] = {}
    for job in jobs:
        try:
            if record := finished_record(job):
                finished[job.job_id] = record
        except RunnerError as error:
            say(f"left out: {error}")
    missing = [job for job in jobs if job.job_id in finished and not stored.run_of(job.job_id, None)]
    grids = synced_grids.grids_to_sync(store)
    grids.assign(finished)
    parents = grids.start(stored)
    known = {run for runs in stored.grids.values() for run, _ in runs}
    logged = 0
    with Progress(len(missing), "logging") as bar:
        for job in missing:
            with claim(job):  # waits for a process that is doing this job, or logging it
                if record := finished_record(job):
                    parent = parents.get(job.job_id)
                    below = replace(store, parent_run_id=parent) if parent else None
                    below = below or below_parent(store, record, known)
                    logged += MlflowSink(below, job).log(record)
            bar.advance()
    in_grids = counted(grids.finish(), "grid")
    where = f"{store.shown}, experiment {store.experiment}"
    said = (
        f"{logged} results logged to {where}" + (f", in {in_grids}" if grids.runs else "")
        if logged or grids.runs
        else f"nothing to do: {where} has every finished job"
    )
    return f"{said}\n{fetch_missing(store, stored)}" if options.fetch else said


def fetch_missing(store: stores.Store, stored: StoredRuns) -> str:
    """Fetch the finished jobs that the folder does not have; return a sentence about it."""
    jobs = [Job(job_id, store.output_dir / "jobs" / job_id) for job_id in stored.jobs]
    missing = [job for job in jobs if not is_finished(job)]
    fetched = 0
    with Progress(len(missing), "fetching") as bar:
        for job in missing:
            run_id = stored.run_of(job.job_id, None)
            with claim(job):
                fetched += run_id is not None and fetched_jobs.fetch_run(store, run_id, job) is not None
            bar.advance()
    left = f", {len(missing) - fetched} cannot be" if fetched < len(missing) else ""
    if not missing:
        return note_text(note("nothing_to_fetch", folder=store.output_dir))
    return f"{fetched} results fetched{left}"


def is_finished(job: Job) -> bool:
    """Whether the folder has a job's finished record; one that cannot be read is left alone."""
    try:
        return finished_record(job) is not None
    except RunnerError as error:
        say(f"left out: {error}")
        return True


def finished_record(job: Job) -> Record | None:
    """Return a job's record if the job is finished."""
    record = job.last_record()
    return record if record and record.status is Status.FINISHED else None


def below_parent(store: stores.Store, record: Record, grids: set[str]) -> stores.Store:
    """Return the store with the parent run that the record names, if the store has that run."""
    parent = record.params.get("tracking.parent_run_id")
    return replace(store, parent_run_id=parent) if parent in grids else store


if __name__ == "__main__":
    entry()
