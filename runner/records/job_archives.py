"""Packs a job's folder into an archive, which is sent between hosts that share no disk."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from runner.records.jobs import RESULT, SENT, Job, lock_job
from runner_base import convert_write_error


def pack_job_folder(job: Job, is_running: bool = False) -> bytes:
    """Return a job's folder as tar.gz bytes, without hidden files.

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


def unpack_job_folder(archive_bytes: bytes, job: Job) -> None:
    """Extract an archive into a job's folder and replace existing files.

    The caller must hold the job's lock.
    """
    try:
        fresh = job.folder / SENT
        fresh.mkdir(parents=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(archive_bytes)) as archive:
                archive.extractall(fresh, filter="data")
            move_files_into_job(fresh, job)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise convert_write_error(job.folder, error) from error


def move_files_into_job(folder: Path, job: Job) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if (target := job.folder / path.name).is_dir():
            shutil.rmtree(target)
        shutil.move(path, target)  # in one step, where both are on one disk


def unpack_partial_job(archive_bytes: bytes, job: Job) -> None:
    """Extract the archive of a running job. Raises JobHeld if another process holds the lock."""
    with lock_job(job, should_wait=False):
        unpack_job_folder(archive_bytes, job)
