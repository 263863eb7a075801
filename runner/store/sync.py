"""`runner-sync`: log to MLflow what is recorded on disk and not there yet. Running it twice changes nothing."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from runner.core import signals
from runner.core.console import plain, say
from runner.core.errors import ConfigError, RunnerError, run_entry
from runner.core.progress import Progress
from runner.core.result import Record, Status
from runner.store import ledger, look, mlflow_store
from runner.store.jobs import OLD, Job, claim


def entry() -> NoReturn:
    """Console script: exit 0 when everything is logged, 1 or 2 with a message when not."""
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
    """Log every finished job of a folder that the store does not have; returns what was done, in words."""
    output_dir = Path(options.output_dir).expanduser().absolute()
    if not (output_dir / "jobs").is_dir():
        raise ConfigError(f"--output-dir {options.output_dir}: there is no {output_dir / 'jobs'}")
    store = mlflow_store.chosen(output_dir, options.tracking_uri, options.experiment)
    held = look.look(store)
    grids = {run for runs in held.grids.values() for run, _ in runs}
    missing = []
    for file in sorted(output_dir.glob("jobs/*/result.json")):
        job = Job(file.parent.name, file.parent)
        if OLD in job.job_id or held.run_of(job.job_id, None):
            continue
        try:
            if finished(job):
                missing.append(job)
        except RunnerError as error:
            say(f"left out: {error}")
    logged = 0
    with Progress(len(missing), "logging") as bar:
        for job in missing:
            with claim(job):  # a run of this job that is going on logs itself, and so does another runner-sync
                if record := finished(job):
                    logged += ledger.log_missing(below(store, record, grids), job, record)
            bar.advance()
    where = f"{store.shown}, experiment {store.experiment}"
    return f"{logged} results logged to {where}" if logged else f"nothing to do: {where} has every finished job"


def finished(job: Job) -> Record | None:
    """Return a job's record where it is final."""
    record = job.last_record()
    return record if record and record.status is Status.FINISHED else None


def below(store: mlflow_store.Store, record: Record, grids: set[str]) -> mlflow_store.Store:
    """Return the store with the run that the job stood below, where that is a run of a grid in it."""
    parent = record.params.get("tracking.parent_run_id")
    return replace(store, parent_run_id=parent) if parent in grids else store


if __name__ == "__main__":
    entry()
