"""Packs a job's folder into bytes, for a host that shares no disk with this one."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from runner.records.jobs import RESULT, SENT, Job, lock_job
from runner_base import write_error


def pack_job(job: Job, is_running: bool = False) -> bytes:
    """Return a tar.gz of a job's folder without hidden files.

    is_running: without a result.json that was written this moment. It is sent again when the job
    has ended, and is logged then: stored earlier, it would mark the job as done while MLflow has no
    run of it.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(job.list_result_files()):
            if not (is_running and path.name == RESULT):
                archive.add(path, path.name)
    return packed.getvalue()


def unpack_job(archive_bytes: bytes, job: Job) -> None:
    """Extract the archive of `pack_job` into a job's folder. Files with the same names are replaced.
    The caller holds the lock.
    """
    try:
        fresh = job.folder / SENT
        fresh.mkdir(parents=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(archive_bytes)) as archive:
                archive.extractall(fresh, filter="data")
            move_into_job(fresh, job)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise write_error(job.folder, error) from error


def move_into_job(folder: Path, job: Job) -> None:
    """Move the files of a folder into a job's folder. Files with the same names are replaced."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if (target := job.folder / path.name).is_dir():
            shutil.rmtree(target)
        shutil.move(path, target)  # in one step, where both are on one disk


def unpack_partial_job(archive_bytes: bytes, job: Job) -> None:
    """Store what a running job has sent so far, unless another process holds the job."""
    with lock_job(job, wait=False):
        unpack_job(archive_bytes, job)
