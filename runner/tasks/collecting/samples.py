"""How completions become samples, and what a task says about them."""

from __future__ import annotations

from typing import Protocol

from runner.tasks.collecting.guesses import summed_guesses
from runner_base import Sample
from runner_base.notes import Note
from runner_engine import Completion


class Judge(Protocol):
    """How a task judges its samples, and which of those on disk are its own."""

    def __call__(self, sample: Sample, *completions: Completion) -> Sample:
        """Return a new sample, which was made of these completions, with its verdict."""
        ...

    def rejection_reason(self, sample: Sample) -> Note | str | None:
        """Return why a sample on disk does not belong to this job; None if it does."""
        ...

    def adopted(self, sample: Sample) -> Sample | None:
        """Return another job's sample as one of this job; None if it cannot be one."""
        ...


class Unjudged:
    """Of a task that judges nothing: every sample is its own, and none of another job's."""

    def __call__(self, sample: Sample, *_completions: Completion) -> Sample:
        return sample

    def rejection_reason(self, _sample: Sample) -> Note | str | None:
        """Reject none."""
        return None

    def adopted(self, _sample: Sample) -> Sample | None:
        return None


UNJUDGED = Unjudged()


def sample_of(*completions: Completion) -> Sample:
    """Return all completions of a request as a sample without a verdict."""
    first = next((completion for completion in completions if completion.error is not None), completions[0])
    costs = [completion.cost_usd for completion in completions if completion.cost_usd is not None]
    several = len(completions) > 1
    return Sample.of(
        first,
        answer=first.answer.without_tokens() if several else first.answer,
        index=int(first.id),
        # some servers report it with the first choice only
        prompt_tokens=max(completion.prompt_tokens for completion in completions),
        seconds=round(max(completion.seconds for completion in completions), 6),
        choices=[completion.answer for completion in completions] if several else None,
        cost_usd=sum(costs) if costs else None,
        guessed=summed_guesses(completion.guessed for completion in completions),
    )
