"""How much of a job is still to be asked, for its plan, where jobs reuse each other's answers.

Nothing is judged and nothing is loaded: an answer counts if it belongs to the same question.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.records import sibling_jobs
from runner.records.jobs import Job, read_samples
from runner_base import EvidenceError, Sample


def left_to_ask(job: Job, questions: Mapping[int, str], answers_each: int) -> int:
    """Return how many questions, by their numbers, have no answer in this job's folder or in a
    sibling's."""

    def same(sample: Sample) -> Sample | None:
        is_same = sample.question == questions.get(sample.index) and len(sample.answers) == answers_each
        return sample if is_same else None

    try:
        own = read_samples(job.samples_path)
    except (EvidenceError, OSError):  # the start of the job says so
        own = {}
    answered = {index for index, sample in own.items() if index in questions and not sample.failed}
    reused, _ = sibling_jobs.reusable(job, questions.keys() - answered, same)
    return len(questions) - len(answered) - len(reused)
