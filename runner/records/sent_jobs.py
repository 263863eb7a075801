"""A job's folder as bytes, for a host that shares no disk with this one."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

from runner.records.jobs import RESULT, SENT, Job, claim
from runner_base import cannot_write


def pack(job: Job, is_running: bool = False) -> bytes:
    """Return the files of a job's folder; hidden ones belong to the ledger of this host.

    is_running: without a result.json that was written this moment. It comes again when the job has
    ended, and is logged then: kept before, it would say that the job is done while MLflow knows
    nothing of it.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(job.evidence()):
            if not (is_running and path.name == RESULT):
                archive.add(path, path.name)
    return packed.getvalue()


def unpack(files: bytes, job: Job) -> None:
    """Put files that `pack` has returned into a job's folder, which this process has; each replaces
    its namesake."""
    try:
        fresh = job.folder / SENT
        fresh.mkdir(parents=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(files)) as archive:
                archive.extractall(fresh, filter="data")
            put(fresh, job)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise cannot_write(job.folder, error) from error


def put(folder: Path, job: Job) -> None:
    """Move the files of a folder into a job's; each replaces its namesake."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if (target := job.folder / path.name).is_dir():
            shutil.rmtree(target)
        shutil.move(path, target)  # in one step, where both are on one disk


def keep(files: bytes, job: Job) -> None:
    """Keep what a running job has sent so far, unless another process has the job."""
    with claim(job, wait=False):
        unpack(files, job)
