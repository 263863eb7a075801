"""Several policies of one job: each has its say, and none knows of another."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Set

import pytest

from runner.tasks.collecting import OrderOfRepeat, Policies, Policy
from runner_base import Answer, FinishReason, Sample
from runner_engine import Completion, Request


def sample(index: int) -> Sample:
    return Sample(Answer("18", [1], FinishReason.stop), "sha", 3, 0.1, index)


class Rounds(Policy):
    """Asks one question before the others."""

    def rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        yield requests[:1]
        yield requests[1:]


class Knows(Policy):
    """Knows answers to some questions."""

    def __init__(self, *indexes: int) -> None:
        self.indexes = indexes
        self.asked_for: Set[int] = set()

    def known(self, missing: Set[int]) -> Mapping[int, Sample]:
        self.asked_for = missing
        return {index: sample(index) for index in self.indexes if index in missing}


class Enough(Policy):
    """Takes so many questions as enough."""

    def __init__(self, enough: int | None) -> None:
        self.enough = enough

    def begin(self, _samples: Mapping[int, Sample]) -> int | None:
        return self.enough

    def answered(self, _sample: Sample) -> int | None:
        return self.enough

    def ahead(self, ended: int) -> int:
        return sys.maxsize if self.enough is None else max(ended, self.enough)


class Further(Policy):
    """Asks further requests."""

    def __init__(self, *names: str) -> None:
        self.names, self.recorded = names, list[object]()

    def due(self) -> list[Request]:
        return [Request(name, "18?") for name in self.names]

    def record(self, *completions: Completion) -> None:
        self.recorded += [completion.id for completion in completions]


def test_what_one_policy_knows_the_next_one_is_not_asked_for() -> None:
    first, second = Knows(1, 2), Knows(2, 3)
    assert sorted(Policies([first, second]).known({1, 2, 3, 4})) == [1, 2, 3]
    assert second.asked_for == {3, 4}


@pytest.mark.parametrize(("numbers", "fewest"), [((), None), ((None, None), None), ((None, 7, 5), 5)])
def test_the_fewest_questions_are_enough(numbers: tuple[int | None, ...], fewest: int | None) -> None:
    policies = Policies([Enough(number) for number in numbers])
    assert policies.begin({}) == policies.answered(sample(0)) == fewest
    assert policies.ahead(1) == (sys.maxsize if fewest is None else 5)


def test_each_round_of_one_policy_has_the_order_of_the_next() -> None:
    requests = [Request(number, "18?") for number in range(12)]
    rounds = [
        [request.id for request in some] for some in Policies([Rounds(), OrderOfRepeat(1)]).rounds(requests)
    ]
    assert rounds[0] == [0]
    assert sorted(map(int, rounds[1])) == [*range(1, 12)] != rounds[1]
    assert [*Policies([OrderOfRepeat(0)]).rounds(requests)] == [requests]


def test_the_answer_to_a_further_request_goes_to_who_asked() -> None:
    first, second = Further("a"), Further("b", "c")
    policies = Policies([first, second])
    for request in policies.due():
        answer = Answer("18", [1], FinishReason.stop)
        policies.record(Completion(answer, "sha", 3, seconds=0.1, id=request.id, first_token_s=0.1))
    assert (first.recorded, second.recorded) == (["a"], ["b", "c"])
