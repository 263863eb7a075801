"""task.repeat: any but the first run of a job asks its questions in an order of its own."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from runner.tasks.collecting.policy import Policy
from runner_engine import Request


class OrderOfRepeat(Policy):
    """The order of a repeat; 0: the first run, which asks in the order of the questions."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat

    def rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield the requests in this repeat's order."""
        yield Random(self.repeat).sample(requests, len(requests)) if self.repeat else requests
