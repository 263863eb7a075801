"""Reuse of another job's answers: `task.limit=200` after `task.limit=100` generates only the second
hundred.

Sibling jobs differ only in which questions they ask, in how the answers are judged and in what else
they check, and in nothing that an answer depends on: a reused text is judged anew. A marker file in
each job's folder lets the others find it. Nothing is written to another job's folder, and only
complete lines with a correct checksum are read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path

from runner.records.jobs import OLD, Job, read_samples
from runner_base import EvidenceError, Sample, cannot_write, one_line
from runner_base.notes import Note, note

MARK = ".kin-"  # in a job's folder, followed by its sibling key


def mark(job: Job) -> None:
    """Let sibling jobs find this one."""
    if job.sibling_key:
        try:
            (job.folder / f"{MARK}{job.sibling_key}").touch()
        except OSError as error:
            raise cannot_write(job.folder, error) from error


def siblings(job: Job) -> list[Job]:
    """Return the sibling jobs in the same output folder, by their ids."""
    if not job.sibling_key:
        return []
    folders = sorted(path.parent for path in job.folder.parent.glob(f"*/{MARK}{job.sibling_key}"))
    return [
        Job(at.name, at, job.sibling_key) for at in folders if at.name != job.job_id and OLD not in at.name
    ]


def reusable(
    job: Job, wanted: Set[int], adopted: Callable[[Sample], Sample | None]
) -> tuple[dict[int, Sample], list[Note]]:
    """Return the wanted answers that sibling jobs have, by index, and notes about jobs that could
    not be read.

    `adopted` returns another job's sample as this job would record it, or None if it answers
    another question. A sibling may be running: a line that is not complete yet is ignored.
    """
    reused: dict[int, Sample] = {}
    notes = []
    for other in siblings(job):
        if wanted <= reused.keys():
            break
        try:
            samples = read_samples(other.samples_path)
        except (EvidenceError, OSError) as error:
            notes.append(note("not_reused", job=other.job_id, reason=one_line(error)))
            continue
        for index in wanted - reused.keys():
            sample = samples.get(index)
            own_sample = None if sample is None or sample.failed else adopted(sample)
            if sample is not None and own_sample is not None:
                reused[index] = replace(own_sample, reused_from=sample.reused_from or other.job_id)
    return reused, notes


def folder_of(job: Job, job_id: str) -> Path:
    """Return the folder of another job in the same output folder."""
    return job.folder.with_name(job_id)
