"""Reuse of other jobs' answers to the same questions: what is found beside the job is not asked
again."""

from __future__ import annotations

from collections.abc import Mapping, Set

from runner.records import sibling_jobs
from runner.tasks.base import Context
from runner.tasks.collecting.policy import Policy
from runner.tasks.collecting.samples import Judge
from runner_base import Sample
from runner_base.notes import Note


class ReuseOfAnswers(Policy):
    """Takes the answers of sibling jobs, unless the user wants all of them anew."""

    def __init__(self, context: Context, judge: Judge) -> None:
        self.job, self.judge = context.recorder.job, judge
        self.is_wanted = context.config.rerun not in (True, "all")
        self._unreadable: list[Note] = []

    def known(self, missing: Set[int]) -> Mapping[int, Sample]:
        """Return their answers, judged anew; and let them find this job's."""
        sibling_jobs.mark(self.job)
        if not missing or not self.is_wanted:
            return {}
        known, self._unreadable = sibling_jobs.reusable(self.job, missing, self.judge.adopted)
        return known

    def notes(self) -> list[Note]:
        """Return which jobs could not be read."""
        return self._unreadable
