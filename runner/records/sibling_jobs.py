"""Reuses the answers of sibling jobs, which differ only in their selection of questions and in how they
judge answers.

For example, task.limit=200 after task.limit=100 generates only 100 answers. Sibling jobs agree
in everything that an answer depends on. A reused text is judged again. A marker file in each
job's folder lets the others find it. Nothing is written to another job's folder, and only
complete lines with a correct checksum are read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path

from runner.records.jobs import OLD, Job, read_samples
from runner_base import RunRecordError, Sample, convert_write_error, to_one_line
from runner_base.notes import Note, note

MARK = ".kin-"  # in a job's folder, followed by its sibling key


def mark_job_reusable(job: Job) -> None:
    """Create a marker file by which jobs with equal inputs (sibling jobs) find this job."""
    if job.sibling_key:
        try:
            (job.folder / f"{MARK}{job.sibling_key}").touch()
        except OSError as error:
            raise convert_write_error(job.folder, error) from error


def find_jobs_with_reusable_answers(job: Job) -> list[Job]:
    """Return the jobs in the same output folder whose answers this job may reuse, sorted by id."""
    if not job.sibling_key:
        return []
    folders = sorted(path.parent for path in job.folder.parent.glob(f"*/{MARK}{job.sibling_key}"))
    return [
        Job(at.name, at, job.sibling_key) for at in folders if at.name != job.job_id and OLD not in at.name
    ]


def read_reusable_answers(
    job: Job, question_indices: Set[int], convert_sample: Callable[[Sample], Sample | None]
) -> tuple[dict[int, Sample], list[Note]]:
    """Return reusable answers of sibling jobs by question index, and notes on unreadable jobs.

    `convert_sample` converts another job's sample to one of this job, or returns None if it
    answers another question. A sibling may be running: an incomplete line is ignored.
    """
    reused: dict[int, Sample] = {}
    notes = []
    for other in find_jobs_with_reusable_answers(job):
        if question_indices <= reused.keys():
            break
        try:
            samples = read_samples(other.samples_path)
        except (RunRecordError, OSError) as error:
            notes.append(note("not_reused", job=other.job_id, reason=to_one_line(error)))
            continue
        for index in question_indices - reused.keys():
            sample = samples.get(index)
            own_sample = None if sample is None or sample.failed else convert_sample(sample)
            if sample is not None and own_sample is not None:
                reused[index] = replace(own_sample, reused_from=sample.reused_from or other.job_id)
    return reused, notes


def sibling_job_folder(job: Job, job_id: str) -> Path:
    return job.folder.with_name(job_id)
