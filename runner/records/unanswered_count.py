"""Counts the questions that a planned job still has to ask. Reusable answers of other jobs count as answered.

Nothing is judged or loaded: an answer counts if it belongs to the same question.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.records import sibling_jobs
from runner.records.jobs import Job, read_samples
from runner_base import RunRecordError, Sample


def count_unanswered_questions(job: Job, questions: Mapping[int, str], answers_per_question: int) -> int:
    def accept_same_question(sample: Sample) -> Sample | None:
        is_same = (
            sample.question == questions.get(sample.index) and len(sample.answers) == answers_per_question
        )
        return sample if is_same else None

    try:
        own = read_samples(job.samples_path)
    except (RunRecordError, OSError):  # the start of the job says so
        own = {}
    answered = {index for index, sample in own.items() if index in questions and not sample.failed}
    reused, _ = sibling_jobs.read_reusable_answers(job, questions.keys() - answered, accept_same_question)
    return len(questions) - len(answered) - len(reused)
