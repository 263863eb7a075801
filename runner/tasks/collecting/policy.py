"""What a job may do beside asking each of its questions once: the contract of a policy, and all of a job as one.

Early stop, second answers, the reuse of other jobs' answers and of their thoughts, another order, and what the progress
bar shows are policies. None knows of another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from runner_base import Sample
from runner_base.notes import Note
from runner_engine import Begun, Completion, Engine, EngineReport, Request, RequestId


class Policy:
    """One thing that a job does beside asking each of its questions once.

    The methods stand in the order in which they are called. Here they do nothing: a policy has
    those that it needs.
    """

    # ------------------------------------------------------------------------------------ before
    # anything is loaded

    def known(self, missing: Set[int]) -> Mapping[int, Sample]:
        """Return answers to missing questions that need not be asked for."""
        return {}

    def begin(self, samples: Mapping[int, Sample]) -> int | None:
        """Begin with the answers that there are; return how many questions are enough, None for all
        of them.

        It is called again after the load, as some known answers may turn out to be those to another
        prompt.
        """
        return None

    # --------------------------------------------------------------------------------------- while
    # questions are asked

    def loaded(self, engine: Engine, report: EngineReport) -> None:
        """Look at the engine before it is asked; its report may be added to."""

    def rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield the requests in the order to ask them; each list is answered before the next one is
        taken."""
        yield requests

    def begun(self, request: RequestId) -> Begun | None:
        """Return the tokens that an answer begins with, if they are known."""
        return None

    def ahead(self, ended: int) -> int:
        """Return how many questions may be under way when so many have ended."""
        return sys.maxsize

    def answered(self, sample: Sample) -> int | None:
        """Take a new answer; return how many questions are enough, None for all of them."""
        return None

    def news(self) -> dict[str, str]:
        """Return what the progress bar shows after an answer, besides the speed."""
        return {}

    def due(self) -> list[Request]:
        """Return further requests, asked while questions wait for a place; their ids are not those
        of questions."""
        return []

    def record(self, *completions: Completion) -> None:
        """Take all completions of a further request."""

    # ----------------------------------------------------------------------------------- at the end

    def end(self, samples: Iterable[Sample]) -> None:
        """Look at all answers."""

    def notes(self) -> list[Note]:
        """Say what the policy has done, where a reader of the result must know it."""
        return []


class Policies(Policy):
    """All policies of a job as one."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = policies
        self._further: dict[RequestId, Policy] = {}  # who has asked for a further request

    def known(self, missing: Set[int]) -> Mapping[int, Sample]:
        """Return what each policy knows of those that the ones before it do not know."""
        known: dict[int, Sample] = {}
        for policy in self.policies:
            known |= policy.known(missing - known.keys())
        return known

    def begin(self, samples: Mapping[int, Sample]) -> int | None:
        """Return the fewest questions that a policy takes as enough."""
        return _fewest([policy.begin(samples) for policy in self.policies])

    def loaded(self, engine: Engine, report: EngineReport) -> None:
        """Let each look at the engine."""
        for policy in self.policies:
            policy.loaded(engine, report)

    def rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield the rounds of the first policy, each in the rounds of the second, and so on."""
        yield from _rounds(self.policies, requests)

    def begun(self, request: RequestId) -> Begun | None:
        """Return what the first policy knows that knows any tokens."""
        return next((begun for policy in self.policies if (begun := policy.begun(request)) is not None), None)

    def ahead(self, ended: int) -> int:
        """Return as many as each policy allows."""
        return min((policy.ahead(ended) for policy in self.policies), default=sys.maxsize)

    def answered(self, sample: Sample) -> int | None:
        """Return the fewest questions that a policy takes as enough."""
        return _fewest([policy.answered(sample) for policy in self.policies])

    def news(self) -> dict[str, str]:
        return {name: shown for policy in self.policies for name, shown in policy.news().items()}

    def due(self) -> list[Request]:
        further = []
        for policy in self.policies:
            for request in policy.due():
                self._further[request.id] = policy
                further.append(request)
        return further

    def record(self, *completions: Completion) -> None:
        """Give the completions to the policy that has asked for them."""
        self._further.pop(completions[0].id).record(*completions)

    def end(self, samples: Iterable[Sample]) -> None:
        """Let each look at the answers."""
        answers = [*samples]
        for policy in self.policies:
            policy.end(answers)

    def notes(self) -> list[Note]:
        return [note for policy in self.policies for note in policy.notes()]


def _fewest(numbers: Iterable[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _rounds(policies: Sequence[Policy], requests: list[Request]) -> Iterator[list[Request]]:
    if not policies:
        yield requests
        return
    first, *rest = policies
    for some in first.rounds(requests):
        yield from _rounds(rest, some)
