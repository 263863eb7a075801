"""Converts completions to samples. Defines the interface of judges, which add verdicts to samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from runner.tasks.collecting.draft_token_counts import sum_draft_token_counts
from runner_base import Sample
from runner_base.notes import Note, note
from runner_engine import Completion


class Judge(Protocol):
    """Interface of judges. A judge adds the verdict to a sample, and rejects samples of other jobs."""

    def __call__(self, sample: Sample, *completions: Completion) -> Sample:
        """Return the new sample with its verdict."""
        ...

    def rejection_reason(self, sample: Sample) -> Note | str | None:
        """Return why a stored sample does not belong to this job. None if the sample is valid."""
        ...

    def adopt_sample(self, sample: Sample) -> Sample | None:
        """Convert another job's sample to a sample of this job. Returns None if that is impossible."""
        ...


@runtime_checkable
class BackgroundJudge(Protocol):
    """Interface of judges that take long, such as one that runs programs. Decoding continues meanwhile."""

    def start_judging(self, sample: Sample) -> Future[Sample]:
        """Start to judge a sample in another thread."""
        ...


class QuestionJudge(ABC):
    """Base class of judges that judge a stored sample again to find out whether it belongs to the job."""

    @abstractmethod
    def __call__(self, sample: Sample, *completions: Completion) -> Sample: ...

    @abstractmethod
    def has_same_question(self, sample: Sample) -> bool:
        """Return whether a sample answers the job's question of its index."""

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a stored sample does not belong to this job. None if the sample is valid."""
        if not self.has_same_question(sample):
            return note("other_question", index=sample.index)
        return None if self(sample) == sample else note("judged_differently")

    def adopt_sample(self, sample: Sample) -> Sample | None:
        """Convert another job's sample to a sample of this job. Returns None for another question."""
        return self(sample) if self.has_same_question(sample) else None


class NoJudge:
    """Judge for tasks without verdicts."""

    def __call__(self, sample: Sample, *_completions: Completion) -> Sample:
        return sample

    def rejection_reason(self, _sample: Sample) -> Note | str | None:
        return None

    def adopt_sample(self, _sample: Sample) -> Sample | None:
        return None


UNJUDGED = NoJudge()


def build_sample_from_completions(*completions: Completion) -> Sample:
    first = next((completion for completion in completions if completion.error is not None), completions[0])
    costs = [completion.cost_usd for completion in completions if completion.cost_usd is not None]
    several = len(completions) > 1
    return Sample.from_response(
        first,
        answer=first.answer.without_tokens() if several else first.answer,
        index=int(first.id),
        # some servers report it with the first choice only
        prompt_tokens=max(completion.prompt_tokens for completion in completions),
        seconds=round(max(completion.seconds for completion in completions), 6),
        choices=[completion.answer for completion in completions] if several else None,
        cost_usd=sum(costs) if costs else None,
        guessed=sum_draft_token_counts(completion.guessed for completion in completions),
    )
