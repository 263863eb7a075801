"""Reuses answers of other jobs with equal inputs, so that fewer questions are sent."""

from __future__ import annotations

from collections.abc import Mapping, Set

from runner.records import sibling_jobs
from runner.tasks.base import TaskContext
from runner.tasks.collecting.policy import Policy
from runner.tasks.collecting.samples import Judge
from runner_base import Sample
from runner_base.notes import Note


class AnswerReuse(Policy):
    """Policy that reuses answers of jobs with equal inputs, unless rerun=all."""

    def __init__(self, context: TaskContext, judge: Judge) -> None:
        self.job, self.judge = context.recorder.job, judge
        self.is_wanted = context.config.rerun not in (True, "all")
        self._unreadable: list[Note] = []

    def find_known_answers(self, unanswered_ids: Set[int]) -> Mapping[int, Sample]:
        """Return other jobs' answers to the same inputs, with the verdicts that this job gives them."""
        sibling_jobs.mark_job_reusable(self.job)
        if not unanswered_ids or not self.is_wanted:
            return {}
        known, self._unreadable = sibling_jobs.read_reusable_answers(
            self.job, unanswered_ids, self.judge.adopt_sample
        )
        return known

    def notes(self) -> list[Note]:
        return self._unreadable
