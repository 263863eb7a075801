"""Base class of policies, which change how a job sends its questions, and a policy that combines
several.

Early stopping, second answers, reuse of other jobs' answers and thinking, the order, and fields
of the progress bar are policies. No policy knows of another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from runner_base import Sample
from runner_base.notes import Note
from runner_engine import Completion, Engine, EngineReport, PartialAnswers, Request, RequestId


class Policy:
    """One change to how a job answers its questions.

    The methods stand in the order of their calls. Here they do nothing: a policy overrides those
    that it needs.
    """

    # ------------------------------------------------------------------------------------ before
    # anything is loaded

    def find_known_answers(self, unanswered_ids: Set[int]) -> Mapping[int, Sample]:
        """Return answers to unanswered questions that need not be generated."""
        return {}

    def start(self, samples: Mapping[int, Sample]) -> int | None:
        """Start with the existing answers, and return how many questions are enough; None means all.

        Called again after the load, because some known answers may belong to another prompt.
        """
        return None

    # --------------------------------------------------------------------------------------- while
    # questions are asked

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        """Inspect the loaded engine. The policy may add to its report."""

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield the requests in rounds. Each round is answered before the next one starts."""
        yield requests

    def known_answer_tokens(self, request_id: RequestId) -> PartialAnswers | None:
        """Return the tokens that an answer begins with, if they are known."""
        return None

    def max_in_flight(self, num_ended: int) -> int:
        """Return how many questions may be in progress after `num_ended` have ended."""
        return sys.maxsize

    def on_answer(self, sample: Sample) -> int | None:
        """Process a new answer, and return how many questions are enough; None means all."""
        return None

    def progress_fields(self) -> dict[str, str]:
        """Return what the progress bar shows after an answer, besides the speed."""
        return {}

    def next_extra_requests(self) -> list[Request]:
        """Return extra requests to send while questions are queued. Their ids differ from the questions'
        ids.
        """
        return []

    def on_extra_answer(self, *completions: Completion) -> None:
        """Process all completions of an extra request."""

    # ----------------------------------------------------------------------------------- at the end

    def finish(self, samples: Iterable[Sample]) -> None:
        """Process all answers at the end of the job."""

    def notes(self) -> list[Note]:
        """Return notes about the policy that a reader of the result needs."""
        return []


class CombinedPolicy(Policy):
    """Combines all policies of a job into one."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = policies
        self._further: dict[RequestId, Policy] = {}  # who has asked for a further request

    def find_known_answers(self, unanswered_ids: Set[int]) -> Mapping[int, Sample]:
        """Return known answers. Earlier policies have priority."""
        known: dict[int, Sample] = {}
        for policy in self.policies:
            known |= policy.find_known_answers(unanswered_ids - known.keys())
        return known

    def start(self, samples: Mapping[int, Sample]) -> int | None:
        """Return the smallest number of questions that any policy considers enough."""
        return _min_or_none([policy.start(samples) for policy in self.policies])

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        for policy in self.policies:
            policy.on_engine_loaded(engine, report)

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield the rounds of the first policy, each split by the second policy, and so on."""
        yield from _nested_rounds(self.policies, requests)

    def known_answer_tokens(self, request_id: RequestId) -> PartialAnswers | None:
        """Return the tokens from the first policy that knows any."""
        return next(
            (
                begun
                for policy in self.policies
                if (begun := policy.known_answer_tokens(request_id)) is not None
            ),
            None,
        )

    def max_in_flight(self, num_ended: int) -> int:
        """Return the smallest limit of all policies."""
        return min((policy.max_in_flight(num_ended) for policy in self.policies), default=sys.maxsize)

    def on_answer(self, sample: Sample) -> int | None:
        """Return the smallest number of questions that any policy considers enough."""
        return _min_or_none([policy.on_answer(sample) for policy in self.policies])

    def progress_fields(self) -> dict[str, str]:
        return {name: shown for policy in self.policies for name, shown in policy.progress_fields().items()}

    def next_extra_requests(self) -> list[Request]:
        further = []
        for policy in self.policies:
            for request in policy.next_extra_requests():
                self._further[request.id] = policy
                further.append(request)
        return further

    def on_extra_answer(self, *completions: Completion) -> None:
        """Pass the completions to the policy that requested them."""
        self._further.pop(completions[0].id).on_extra_answer(*completions)

    def finish(self, samples: Iterable[Sample]) -> None:
        answers = [*samples]
        for policy in self.policies:
            policy.finish(answers)

    def notes(self) -> list[Note]:
        return [note for policy in self.policies for note in policy.notes()]


def _min_or_none(numbers: Iterable[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _nested_rounds(policies: Sequence[Policy], requests: list[Request]) -> Iterator[list[Request]]:
    if not policies:
        yield requests
        return
    first, *rest = policies
    for some in first.split_into_rounds(requests):
        yield from _nested_rounds(rest, some)
