"""`runner-sync`: log to MLflow what is recorded on disk and not there yet. Running it twice changes nothing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from runner.core.console import plain, say
from runner.core.errors import ConfigError, RunnerError, run_entry
from runner.core.progress import Progress
from runner.core.result import Record, Status
from runner.store import ledger, mlflow_store
from runner.store.jobs import Job, claim


def entry() -> NoReturn:
    """Console script: exit 0 when everything is logged, 1 or 2 with a message when not."""
    run_entry("runner-sync", lambda: print(plain(sync(parser().parse_args()))))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    it = argparse.ArgumentParser("runner-sync", description=(__doc__ or "").split("`: ")[1])
    it.add_argument("--output-dir", default="outputs", help="folder that holds jobs/ (default: %(default)s)")
    it.add_argument(
        "--tracking-uri", help="MLflow store to log to (default: MLFLOW_TRACKING_URI, else mlflow.db in output-dir)"
    )
    it.add_argument("--experiment", default="runner", help="MLflow experiment (default: %(default)s)")
    return it


def sync(options: argparse.Namespace) -> str:
    """Log every finished job of a folder that the store does not have; returns what was done, in words."""
    output_dir = Path(options.output_dir).expanduser().absolute()
    if not (output_dir / "jobs").is_dir():
        raise ConfigError(f"--output-dir {options.output_dir}: there is no {output_dir / 'jobs'}")
    uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or mlflow_store.default_uri(output_dir)
    store = mlflow_store.Store(uri, options.experiment, output_dir)
    missing = []
    for file in sorted(output_dir.glob("jobs/*/result.json")):
        job = Job(file.parent.name, file.parent)
        try:
            if unlogged(job, uri):
                missing.append(job)
        except RunnerError as error:
            say(f"left out: {error}")
    logged = 0
    with Progress(len(missing), "logging") as bar:
        for job in missing:
            with claim(job):  # a run of this job that is going on logs itself, and so does another runner-sync
                if record := unlogged(job, uri):
                    ledger.log_late(store, job, record)
                    logged += 1
            bar.advance()
    return f"{logged} results logged to {uri}" if logged else f"nothing to do: {uri} has every finished job"


def unlogged(job: Job, uri: str) -> Record | None:
    """Return a job's record where it is final and does not say that it stands in the store."""
    record = job.last_record()
    return record if record and record.status is Status.FINISHED and record.mlflow_uri != uri else None


if __name__ == "__main__":
    entry()
