"""Several policies of one job: each has its say, and none knows of another."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Set

import pytest

from runner.tasks.collecting import CombinedPolicy, Policy, RepeatOrder
from runner_base import Answer, FinishReason, Sample
from runner_engine import Completion, Request


def sample(index: int) -> Sample:
    return Sample(Answer("18", [1], FinishReason.stop), "sha", 3, 0.1, index)


class Rounds(Policy):
    """Asks one question before the others."""

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        yield requests[:1]
        yield requests[1:]


class Knows(Policy):
    """Knows answers to some questions."""

    def __init__(self, *indexes: int) -> None:
        self.indexes = indexes
        self.asked_for: Set[int] = set()

    def find_known_answers(self, unanswered_ids: Set[int]) -> Mapping[int, Sample]:
        self.asked_for = unanswered_ids
        return {index: sample(index) for index in self.indexes if index in unanswered_ids}


class Enough(Policy):
    """Takes so many questions as enough."""

    def __init__(self, enough: int | None) -> None:
        self.enough = enough

    def start(self, _samples: Mapping[int, Sample]) -> int | None:
        return self.enough

    def on_answer(self, _sample: Sample) -> int | None:
        return self.enough

    def max_in_flight(self, num_ended: int) -> int:
        return sys.maxsize if self.enough is None else max(num_ended, self.enough)


class Further(Policy):
    """Asks further requests."""

    def __init__(self, *names: str) -> None:
        self.names, self.recorded = names, list[object]()

    def next_extra_requests(self) -> list[Request]:
        return [Request(name, "18?") for name in self.names]

    def on_extra_answer(self, *completions: Completion) -> None:
        self.recorded += [completion.id for completion in completions]


def test_what_one_policy_knows_the_next_one_is_not_asked_for() -> None:
    first, second = Knows(1, 2), Knows(2, 3)
    assert sorted(CombinedPolicy([first, second]).find_known_answers({1, 2, 3, 4})) == [1, 2, 3]
    assert second.asked_for == {3, 4}


@pytest.mark.parametrize(("numbers", "fewest"), [((), None), ((None, None), None), ((None, 7, 5), 5)])
def test_the_fewest_questions_are_enough(numbers: tuple[int | None, ...], fewest: int | None) -> None:
    policies = CombinedPolicy([Enough(number) for number in numbers])
    assert policies.start({}) == policies.on_answer(sample(0)) == fewest
    assert policies.max_in_flight(1) == (sys.maxsize if fewest is None else 5)


def test_each_round_of_one_policy_has_the_order_of_the_next() -> None:
    requests = [Request(number, "18?") for number in range(12)]
    rounds = [
        [request.id for request in some]
        for some in CombinedPolicy([Rounds(), RepeatOrder(1)]).split_into_rounds(requests)
    ]
    assert rounds[0] == [0]
    assert sorted(map(int, rounds[1])) == [*range(1, 12)] != rounds[1]
    assert [*CombinedPolicy([RepeatOrder(0)]).split_into_rounds(requests)] == [requests]


def test_the_answer_to_a_further_request_goes_to_who_asked() -> None:
    first, second = Further("a"), Further("b", "c")
    policies = CombinedPolicy([first, second])
    for request in policies.next_extra_requests():
        answer = Answer("18", [1], FinishReason.stop)
        policies.on_extra_answer(Completion(answer, "sha", 3, seconds=0.1, id=request.id, first_token_s=0.1))
    assert (first.recorded, second.recorded) == (["a"], ["b", "c"])
