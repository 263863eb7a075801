"""task.repeat: every run of a job but the first sends its questions in another order."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from runner.tasks.collecting.policy import Policy
from runner_engine import Request


class RepeatOrder(Policy):
    """Shuffles the questions with the repeat's number as seed. Repeat 0 keeps their order."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield all requests as one round, in this repeat's order."""
        yield Random(self.repeat).sample(requests, len(requests)) if self.repeat else requests
