"""Downloads jobs that other hosts have finished, from an MLflow server that finds them by job id.

Hosts that share only a server then share their work: a job that one host has done is not
repeated by others.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from runner.config.root import RunnerConfig
from runner.records.job_archives import move_files_into_job
from runner.records.jobs import Job, read_samples
from runner.tracking.connection import connect_to_store
from runner.tracking.stored_runs import read_stored_runs
from runner.tracking.stores import Store, create_store_from_config
from runner_base import Record, RunRecordError, Status, TrackingError, to_one_line

log = logging.getLogger(__name__)

# these hand out files, too; the files of a database lie on the disk of a host
SERVERS = ("http://", "https://")


def get_mlflow_server_store(config: RunnerConfig) -> Store | None:
    """Return the MLflow store of a job if the store is a server, otherwise None."""
    store = create_store_from_config(config)
    return store if store is not None and store.uri.startswith(SERVERS) else None


def download_finished_job(store: Store, job: Job) -> Record | None:
    """Download a finished job from an MLflow server. None if the server has no such job.

    The caller holds the job's lock.
    """
    if not store.uri.startswith(SERVERS):
        return None
    try:
        run_id = read_stored_runs(store, [job.job_id]).find_run(job.job_id, None)
        return None if run_id is None else download_run_files(store, run_id, job)
    except TrackingError:
        if store.parent_run_id is None:
            raise
        return None  # a grid goes on without its server


def download_run_files(store: Store, run_id: str, job: Job) -> Record | None:
    """Download a finished run's files into the job's folder. If a file is damaged, warn and return None."""
    with tempfile.TemporaryDirectory() as scratch:
        there = replace(job, folder=Path(scratch, job.job_id))
        there.folder.mkdir()
        try:
            with connect_to_store(store) as experiment:
                experiment.client.download_artifacts(run_id, "", str(there.folder))
            record = there.read_last_record()
            read_samples(there.samples_path)
        except (RunRecordError, OSError) as error:
            log.warning(
                "MLflow run %s at %s has damaged files of job %s: %s",
                run_id,
                store.redacted_uri,
                job.job_id,
                to_one_line(error),
            )
            return None
        if record is None or record.job_id != job.job_id or record.status is not Status.FINISHED:
            log.warning(
                "MLflow run %s at %s is complete, but lacks the result of job %s",
                run_id,
                store.redacted_uri,
                job.job_id,
            )
            return None
        if record.result.artifacts:  # files that only the other host has
            return None
        move_files_into_job(there.folder, job)
    record = replace(record, output_dir=str(job.folder), mlflow_run_id=run_id, mlflow_uri=store.redacted_uri)
    job.write_record(record)
    log.info("%s ran on %s: its result comes from %s (rerun=all runs the job again)", job.job_id,
             record.result.facts.get("machine", "another host"), store.redacted_uri)  # fmt: skip
    return record
