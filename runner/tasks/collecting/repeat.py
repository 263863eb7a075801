"""Implements task.repeat_index: every repeat of a job sends its questions in another order."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from runner.tasks.collecting.policy import Policy
from runner_engine import Request


class RepeatOrder(Policy):
    """Policy that shuffles the questions with the repeat number as seed. Repeat 0 keeps their order."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        yield Random(self.repeat).sample(requests, len(requests)) if self.repeat else requests
