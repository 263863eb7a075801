"""Stores jobs that ran on another host, and logs them to MLflow."""

from __future__ import annotations

from runner.config.root import RunnerConfig
from runner.records import flat_config, job_records
from runner.records.job_archives import unpack_job_folder
from runner.records.jobs import Job, lock_job
from runner.tracking.sink import MlflowSink
from runner.tracking.stores import create_store_from_config
from runner_base import Record, RunRecordError, Status

# of a record: where it was written and logged, which differs between hosts
OF_THE_HOST = ("output_dir", "tracking.")


def adopt_job(archive: bytes, job: Job, config: RunnerConfig, ignore_earlier: bool) -> Record:
    """Store a job that ran on another host in the local output folder, and log the job to MLflow."""
    with lock_job(job):
        store = create_store_from_config(config)
        sink = MlflowSink(store, job)
        if (
            not ignore_earlier
            and (done := job.read_last_record()) is not None
            and done.status is Status.FINISHED
        ):
            # another process was quicker
            return sink.log_recorded_result_or_raise(job_records.reuse_finished_record(config, job, done))
        if ignore_earlier:
            job.move_results_to_backup() if config.rerun else job.delete_earlier_files()
        unpack_job_folder(archive, job)
        record = job.read_last_record()
        if record is None:
            raise RunRecordError(
                "the host that ran this job did not upload its result.json", key=job.job_id, code="missing"
            )
        own = dict(flat_config.flatten_config(config))
        there = {key: value for key, value in record.params.items() if not key.startswith(OF_THE_HOST)}
        record.params = there | {key: value for key, value in own.items() if key.startswith(OF_THE_HOST)}
        record.output_dir = str(job.folder)
        job.write_record(record)
        if record.status is Status.FINISHED and store is not None and not ignore_earlier:
            sink.log_recorded_result_or_raise(record)
        else:
            sink.start_run(record)
            sink.finish(record)
        return record
