"""Splits a job's requests into those with a stored answer and those without.

A sample with an error has no answer. It stays on disk, and the next start sends the request
again. After a permanent error, such as a prompt longer than the context, only rerun=failed
sends it again.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.records.jobs import Recorder
from runner.tasks.collecting.samples import Judge
from runner_base import Sample
from runner_base.notes import note
from runner_engine import Engine, Request, request_sha256


class StoredAnswers:
    """A job's requests and stored answers, and the requests that still need an answer."""

    def __init__(self, requests: list[Request], recorder: Recorder, judge: Judge, rerun: bool | str) -> None:
        """Read the stored answers. Raises an error if an answer belongs to another job or its verdict
        has changed.
        """
        self.requests, self.recorder = requests, recorder
        self._reject_foreign_answers(judge)
        self.todo = self._list_unanswered_requests(retry_permanent_errors=rerun == "failed")
        self.settled = {
            index: sample for index, sample in recorder.samples.items() if index not in self.unanswered_ids
        }
        self.reused: Mapping[int, Sample] = {}  # of other jobs; they are not on disk until they are taken

    @property
    def unanswered_ids(self) -> set[int]:
        return {int(request.id) for request in self.todo}

    @property
    def answered_samples(self) -> dict[int, Sample]:
        return {**self.settled, **self.reused}

    @property
    def num_retried(self) -> int:
        """Number of unanswered requests that failed when the job ran before."""
        return sum(request.id in self.recorder.failed for request in self.todo)

    def add_reused_samples(self, samples: Mapping[int, Sample]) -> None:
        self.reused = samples
        self.todo = [request for request in self.todo if request.id not in samples]

    def limit_to_first_questions(self, num_questions: int) -> None:
        """Drop the requests for all questions after the first `num_questions`, which the job does not
        need.
        """
        first = {int(request.id) for request in self.requests[:num_questions]}
        self.reused = {index: sample for index, sample in self.reused.items() if index in first}
        self.todo = []

    def record_reused(self) -> None:
        for index in sorted(self.reused):
            self.recorder.append_sample(self.reused[index])

    def reject_answers_to_changed_prompts(self, engine: Engine) -> None:
        """Raise an error if a stored answer of this job belongs to a different prompt. An answer from
        another job is discarded without an error.
        """
        for request in self.requests:
            sample = self.recorder.done.get(int(request.id))
            if sample is not None and not _has_current_prompt(sample, request, engine):
                self.recorder.raise_if_rejected(sample.index, note("other_prompt", index=sample.index))
        reusable = [request for request in self.requests if request.id in self.reused]
        others = [
            request
            for request in reusable
            if not _has_current_prompt(self.reused[int(request.id)], request, engine)
        ]
        self.todo += others
        self.reused = {
            index: self.reused[index] for index in self.reused.keys() - {request.id for request in others}
        }

    def _reject_foreign_answers(self, judge: Judge) -> None:
        asked = {request.id for request in self.requests}
        for index, sample in self.recorder.samples.items():
            if index not in asked:
                self.recorder.raise_if_rejected(
                    index, note("no_such_sample", index=index, prompts=len(self.requests))
                )
            self.recorder.raise_if_rejected(index, judge.rejection_reason(sample))

    def _list_unanswered_requests(self, retry_permanent_errors: bool) -> list[Request]:
        ended = set(self.recorder.done)
        if not retry_permanent_errors:
            ended |= {index for index, sample in self.recorder.failed.items() if sample.permanent}
        return [request for request in self.requests if request.id not in ended]


def _has_current_prompt(sample: Sample, request: Request, engine: Engine) -> bool:
    return sample.prompt_sha256 == request_sha256(engine.encode(request)[0], request)
