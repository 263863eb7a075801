"""What is kept of a job's requests: the answers on disk, those of other jobs, and which have none.

A sample that ended in an error has no answer. It stays on disk as evidence, and the next start
sends the request again. If the error is permanent, such as a prompt that is longer than the model
reads, only rerun=failed sends it again.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.records.jobs import Recorder
from runner.tasks.collecting.samples import Judge
from runner_base import Sample
from runner_base.notes import note
from runner_engine import Engine, Request, request_sha256


class Kept:
    """The requests of a job, their answers that there are, and those that have none."""

    def __init__(self, requests: list[Request], recorder: Recorder, judge: Judge, rerun: bool | str) -> None:
        """Reject answers on disk that do not belong to this job, or that it would judge
        differently."""
        self.requests, self.recorder = requests, recorder
        self._refuse_foreign(judge)
        self.todo = self._without_answer(asks_permanent_again=rerun == "failed")
        self.settled = {
            index: sample for index, sample in recorder.samples.items() if index not in self.missing
        }
        self.reused: Mapping[int, Sample] = {}  # of other jobs; they are not on disk until they are taken

    @property
    def missing(self) -> set[int]:
        """The numbers of the requests that have no answer."""
        return {int(request.id) for request in self.todo}

    @property
    def samples(self) -> dict[int, Sample]:
        """The answers that there are, with those of other jobs."""
        return {**self.settled, **self.reused}

    @property
    def asked_again(self) -> int:
        """How many requests without an answer have ended in an error before."""
        return sum(request.id in self.recorder.failed for request in self.todo)

    def reuse(self, samples: Mapping[int, Sample]) -> None:
        """Count other jobs' answers as this job's."""
        self.reused = samples
        self.todo = [request for request in self.todo if request.id not in samples]

    def leave_out_after(self, enough: int) -> None:
        """Ask nothing more, as the first questions are enough."""
        first = {int(request.id) for request in self.requests[:enough]}
        self.reused = {index: sample for index, sample in self.reused.items() if index in first}
        self.todo = []

    def take_reused(self) -> None:
        """Record other jobs' answers, in the order of the questions."""
        for index in sorted(self.reused):
            self.recorder.sample(self.reused[index])

    def refuse_other_prompts(self, engine: Engine) -> None:
        """Reject answers on disk to another prompt than the model would see now; ask again where
        another job's are."""
        for request in self.requests:
            sample = self.recorder.done.get(int(request.id))
            if sample is not None and not _answers(sample, request, engine):
                self.recorder.verify(sample.index, note("other_prompt", index=sample.index))
        reusable = [request for request in self.requests if request.id in self.reused]
        others = [
            request for request in reusable if not _answers(self.reused[int(request.id)], request, engine)
        ]
        self.todo += others
        self.reused = {
            index: self.reused[index] for index in self.reused.keys() - {request.id for request in others}
        }

    def _refuse_foreign(self, judge: Judge) -> None:
        asked = {request.id for request in self.requests}
        for index, sample in self.recorder.samples.items():
            if index not in asked:
                self.recorder.verify(index, note("no_such_sample", index=index, prompts=len(self.requests)))
            self.recorder.verify(index, judge.rejection_reason(sample))

    def _without_answer(self, asks_permanent_again: bool) -> list[Request]:
        ended = set(self.recorder.done)
        if not asks_permanent_again:
            ended |= {index for index, sample in self.recorder.failed.items() if sample.permanent}
        return [request for request in self.requests if request.id not in ended]


def _answers(sample: Sample, request: Request, engine: Engine) -> bool:
    """Whether a sample answers the prompt that the model would see now."""
    return sample.prompt_sha256 == request_sha256(engine.encode(request)[0], request)
