"""`runner-sync`: log recorded results to MLflow that it does not have yet. Running it twice changes nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from runner.core import signals
from runner.core.console import plain, say
from runner.core.entry import run_entry
from runner.core.errors import ConfigError, RunnerError
from runner.core.progress import Progress
from runner.core.result import Record, Status
from runner.store import ledger, mlflow_store
from runner.store.jobs import OLD, Job, claim
from runner.store.stored_runs import read_runs


def entry() -> NoReturn:
    """Console script: exit with 0 if everything is logged, otherwise with 1 or 2 and a message."""
    signals.install_handlers()
    run_entry("runner-sync", lambda: print(plain(sync(parser().parse_args()))))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    it = argparse.ArgumentParser("runner-sync", description=(__doc__ or "").split("`: ")[1])
    it.add_argument("--output-dir", default="outputs", help="folder that holds jobs/ (default: %(default)s)")
    it.add_argument(
        "--tracking-uri", help="MLflow store to log to (default: MLFLOW_TRACKING_URI, else mlflow.db in output-dir)"
    )
    it.add_argument("--experiment", help="MLflow experiment (default: MLFLOW_EXPERIMENT_NAME, else runner)")
    return it


def sync(options: argparse.Namespace) -> str:
    """Log every finished job of a folder that the store does not have; return a sentence about what was done."""
    output_dir = Path(options.output_dir).expanduser().absolute()
    if not (output_dir / "jobs").is_dir():
        raise ConfigError(f"--output-dir {options.output_dir}: there is no {output_dir / 'jobs'}")
    store = mlflow_store.store_from_options(output_dir, options.tracking_uri, options.experiment)
    stored = read_runs(store)
    grids = {run for runs in stored.grids.values() for run, _ in runs}
    missing = []
    for file in sorted(output_dir.glob("jobs/*/result.json")):
        job = Job(file.parent.name, file.parent)
        if OLD in job.job_id or stored.run_of(job.job_id, None):
            continue
        try:
            if finished_record(job):
                missing.append(job)
        except RunnerError as error:
            say(f"left out: {error}")
    logged = 0
    with Progress(len(missing), "logging") as bar:
        for job in missing:
            with claim(job):  # waits for a process that is doing this job, or logging it
                if record := finished_record(job):
                    logged += ledger.log_missing(below_parent(store, record, grids), job, record)
            bar.advance()
    where = f"{store.shown}, experiment {store.experiment}"
    return f"{logged} results logged to {where}" if logged else f"nothing to do: {where} has every finished job"


def finished_record(job: Job) -> Record | None:
    """Return a job's record if the job is finished."""
    record = job.last_record()
    return record if record and record.status is Status.FINISHED else None


def below_parent(store: mlflow_store.Store, record: Record, grids: set[str]) -> mlflow_store.Store:
    """Return the store with the parent run that the record names, if the store has that run."""
    parent = record.params.get("tracking.parent_run_id")
    return replace(store, parent_run_id=parent) if parent in grids else store


if __name__ == "__main__":
    entry()
