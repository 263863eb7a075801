"""Jobs that another host has finished: known by their ids from an MLflow server, and fetched from
there.

Hosts that share only a server then share their work: what one has done, the others do not do again.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.records.jobs import Job, read_samples
from runner.records.sent_jobs import put
from runner.tracking.connection import connected
from runner.tracking.stored_runs import read_runs
from runner.tracking.stores import Store, store_of
from runner_base import EvidenceError, Record, Status, TrackingError, one_line

log = logging.getLogger(__name__)

# these hand out files, too; the files of a database lie on the disk of a host
SERVERS = ("http://", "https://")


def server_of(config: RunnerConfig) -> Store | None:
    """Return the store of a job if it is a server."""
    store = store_of(config)
    return store if store is not None and store.uri.startswith(SERVERS) else None


def fetch(store: Store, job: Job) -> Record | None:
    """Fetch a job if it is finished in the store and that is a server; None if not. The caller holds
    the job's lock."""
    if not store.uri.startswith(SERVERS):
        return None
    try:
        run_id = read_runs(store, [job.job_id]).run_of(job.job_id, None)
        return None if run_id is None else fetch_run(store, run_id, job)
    except TrackingError:
        if store.parent_run_id is None:
            raise
        return None  # a grid goes on without its server


def fetch_run(store: Store, run_id: str, job: Job) -> Record | None:
    """Fetch the files of a finished run into a job's folder; None, with a warning, if they are not
    intact."""
    with tempfile.TemporaryDirectory() as scratch:
        there = replace(job, folder=Path(scratch, job.job_id))
        there.folder.mkdir()
        try:
            with connected(store) as experiment:
                experiment.client.download_artifacts(run_id, "", str(there.folder))
            record = there.last_record()
            read_samples(there.samples_path)
        except (EvidenceError, OSError) as error:
            log.warning(
                "run %s of %s has %s, but its files are damaged: %s",
                run_id,
                store.shown,
                job.job_id,
                one_line(error),
            )
            return None
        if record is None or record.job_id != job.job_id or record.status is not Status.FINISHED:
            log.warning("run %s of %s is finished, but has no result of %s", run_id, store.shown, job.job_id)
            return None
        if record.result.artifacts:  # files that only the other host has
            return None
        put(there.folder, job)
    record = replace(record, output_dir=str(job.folder), mlflow_run_id=run_id, mlflow_uri=store.shown)
    job.write_record(record)
    log.info("%s was done on %s: its result comes from %s (rerun=all runs it again)", job.job_id,
             record.result.facts.get("machine", "another host"), store.shown)  # fmt: skip
    return record
