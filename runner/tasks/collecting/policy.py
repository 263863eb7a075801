"""Defines policies: objects that change which requests a job sends, in which order, and when it stops.

Early stopping, second answers, reuse of other jobs' answers and thinking, the order, and fields
of the progress bar are policies. No policy knows of another. CombinedPolicy combines them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from runner_base import Sample
from runner_base.notes import Note
from runner_engine import Completion, Engine, EngineReport, PartialAnswers, Request, RequestId


class Policy:
    """Base class of policies. A policy changes which requests a job sends, in which order, or when it stops.

    The methods stand in the order of their calls. Here they do nothing: a policy overrides those
    that it needs.
    """

    # ------------------------------------------------------------------------------------ before
    # anything is loaded

    def find_known_answers(self, unanswered_ids: Set[int]) -> Mapping[int, Sample]:
        """Return the answers that are already known, so that no request is sent for their questions."""
        return {}

    def start(self, samples: Mapping[int, Sample]) -> int | None:
        """Process the answers found on disk. Returns the number of questions that the job needs, or
        None for all.

        Called again after the load, because some known answers may belong to another prompt.
        """
        return None

    # --------------------------------------------------------------------------------------- while
    # questions are asked

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        """Handle the end of model loading. The policy may add facts to the engine report."""

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield the requests in rounds. All requests of a round are answered before the next round starts."""
        yield requests

    def get_known_answer_tokens(self, request_id: RequestId) -> PartialAnswers | None:
        """Return the tokens with which an answer is known to begin, such as reused thinking. None if
        they are unknown.
        """
        return None

    def max_in_flight(self, num_ended: int) -> int:
        """Return the maximum number of unfinished questions, given the number of finished questions."""
        return sys.maxsize

    def on_answer(self, sample: Sample) -> int | None:
        """Process a new answer. Returns the number of questions that the job needs, or None for all."""
        return None

    def progress_fields(self) -> dict[str, str]:
        """Return values for the progress bar, by label."""
        return {}

    def progress_metrics(self) -> dict[str, float]:
        """Return metrics of the answers so far, by the names that the finished job's metrics have."""
        return {}

    def next_extra_requests(self) -> list[Request]:
        """Return extra requests to send now. Extra requests must not use the ids of questions."""
        return []

    def on_extra_answer(self, *completions: Completion) -> None:
        """Process the answers to a request that the policy added, once all of them are complete."""

    # ----------------------------------------------------------------------------------- at the end

    def finish(self, samples: Iterable[Sample]) -> None:
        """Process all answers at the end of the job."""

    def notes(self) -> list[Note]:
        """Return notes that explain how this policy affected the result."""
        return []


class CombinedPolicy(Policy):
    """Applies all policies of a job as one policy."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = policies
        self._further: dict[RequestId, Policy] = {}  # who has asked for a further request

    def find_known_answers(self, unanswered_ids: Set[int]) -> Mapping[int, Sample]:
        """Return the known answers of all policies. If two policies know the same answer, the first
        policy's answer is used.
        """
        known: dict[int, Sample] = {}
        for policy in self.policies:
            known |= policy.find_known_answers(unanswered_ids - known.keys())
        return known

    def start(self, samples: Mapping[int, Sample]) -> int | None:
        """Return the smallest number of questions after which a policy would stop the job. None if no
        policy would.
        """
        return _min_or_none([policy.start(samples) for policy in self.policies])

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        for policy in self.policies:
            policy.on_engine_loaded(engine, report)

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        yield from _split_requests_into_rounds(self.policies, requests)

    def get_known_answer_tokens(self, request_id: RequestId) -> PartialAnswers | None:
        return next(
            (
                begun
                for policy in self.policies
                if (begun := policy.get_known_answer_tokens(request_id)) is not None
            ),
            None,
        )

    def max_in_flight(self, num_ended: int) -> int:
        """Return the smallest of the policies' limits on unfinished questions."""
        return min((policy.max_in_flight(num_ended) for policy in self.policies), default=sys.maxsize)

    def on_answer(self, sample: Sample) -> int | None:
        """Return the smallest number of questions after which a policy would stop the job. None if no
        policy would.
        """
        return _min_or_none([policy.on_answer(sample) for policy in self.policies])

    def progress_fields(self) -> dict[str, str]:
        return {name: shown for policy in self.policies for name, shown in policy.progress_fields().items()}

    def progress_metrics(self) -> dict[str, float]:
        return {name: value for policy in self.policies for name, value in policy.progress_metrics().items()}

    def next_extra_requests(self) -> list[Request]:
        further = []
        for policy in self.policies:
            for request in policy.next_extra_requests():
                self._further[request.id] = policy
                further.append(request)
        return further

    def on_extra_answer(self, *completions: Completion) -> None:
        self._further.pop(completions[0].id).on_extra_answer(*completions)

    def finish(self, samples: Iterable[Sample]) -> None:
        answers = [*samples]
        for policy in self.policies:
            policy.finish(answers)

    def notes(self) -> list[Note]:
        return [note for policy in self.policies for note in policy.notes()]


def _min_or_none(numbers: Iterable[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _split_requests_into_rounds(
    policies: Sequence[Policy], requests: list[Request]
) -> Iterator[list[Request]]:
    if not policies:
        yield requests
        return
    first, *rest = policies
    for some in first.split_into_rounds(requests):
        yield from _split_requests_into_rounds(rest, some)
