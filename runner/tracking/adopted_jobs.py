"""Jobs that another host has run for this one: their files are recorded and logged here."""

from __future__ import annotations

from runner.config.root import RunnerConfig
from runner.records import flat_config, ledger
from runner.records.jobs import Job, claim
from runner.records.sent_jobs import unpack
from runner.tracking.sink import MlflowSink
from runner.tracking.stores import store_of
from runner_base import EvidenceError, Record, Status

# of a record: where it was written and logged, which differs between hosts
OF_THE_HOST = ("output_dir", "tracking.")


def adopt(files: bytes, job: Job, config: RunnerConfig, anew: bool) -> Record:
    """Take over a job that another host has ended: write its files here and log it, as if it had
    run here."""
    with claim(job):
        store = store_of(config)
        sink = MlflowSink(store, job)
        if not anew and (done := job.last_record()) is not None and done.status is Status.FINISHED:
            return sink.attach(ledger.reuse(config, job, done))  # another process was quicker
        if anew:
            job.set_aside() if config.rerun else job.forget()
        unpack(files, job)
        record = job.last_record()
        if record is None:
            raise EvidenceError(
                "the host that ran it has sent no result.json", key=job.job_id, code="missing"
            )
        own = dict(flat_config.flatten(config))
        there = {key: value for key, value in record.params.items() if not key.startswith(OF_THE_HOST)}
        record.params = there | {key: value for key, value in own.items() if key.startswith(OF_THE_HOST)}
        record.output_dir = str(job.folder)
        job.write_record(record)
        if record.status is Status.FINISHED and store is not None and not anew:
            sink.attach(record)
        else:
            sink.start(record)
            sink.finish(record)
        return record
