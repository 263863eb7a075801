"""The rounds of a pipeline: which batch sets out when, and what becomes of the tokens that come back.

Requests go in batches of a few rows. As many batches as there are processes are under way at once, so that every stage
has one to work on while the others have theirs; a batch whose tokens have come back sets out again with them.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

from runner.config.root import RunnerConfig
from runner.config.task import PipelineConfig
from runner.engines.base import EngineStats, Event
from runner.engines.pipeline.transport import Kind, Message
from runner.engines.rows import Row
from runner.engines.stopping import Stopping

MOST_ROWS = 16  # of a batch, where its size is ours to choose


class Line(Protocol):
    """The stages, one after the other, wherever they are."""

    @property
    def depth(self) -> int:
        """How many batches can be worked on at once."""
        ...

    def step(self, message: Message, tokens: torch.Tensor) -> None:
        """Send a batch through, from its token ids [B, T] on."""
        ...

    def end(self, number: int) -> None:
        """Let every stage forget a batch."""
        ...

    def answer(self) -> Message:
        """Wait for the tokens of the batch that comes out next."""
        ...


@dataclass
class Batch:
    """Rows that go through the stages together."""

    number: int
    rows: list[Row]
    started: float = field(default_factory=time.perf_counter)


@dataclass
class Rounds:
    """Takes rows through a line until each has ended."""

    line: Line
    config: RunnerConfig
    stats: EngineStats
    stopping: Stopping
    pad: int
    first_number: int = 0  # batches of one line are never called the same

    def run(self, rows: list[Row], batch_size: int | None) -> Iterator[list[Event]]:
        """Yield what came of each answer; long prompts go first, and so do not pad short ones."""
        rows = sorted(rows, key=lambda row: len(row.prompt), reverse=True)
        size = self._batch_rows(len(rows), batch_size)
        waiting = deque(rows[start : start + size] for start in range(0, len(rows), size))
        flying: dict[int, Batch] = {}
        since = time.perf_counter()
        while waiting or flying:
            while waiting and len(flying) < self.line.depth:
                batch = Batch(self.first_number, waiting.popleft())
                self.first_number += 1
                flying[batch.number] = batch
                self._prefill(batch)
            answer = self.line.answer()
            batch = flying[answer.batch]
            since = self._account(batch, since)
            ended, kept = self._take(batch, answer)
            if kept:
                self._decode(batch, kept)
            else:
                self.line.end(batch.number)
                del flying[batch.number]
            self.stats.rows_alive = sum(len(one.rows) for one in flying.values())
            yield ended

    def _batch_rows(self, rows: int, batch_size: int | None) -> int:
        """Choose how many rows go together: few enough that there is a batch for every stage."""
        assert isinstance(self.config.task, PipelineConfig)
        if self.config.task.micro_batch is not None:
            return self.config.task.micro_batch
        at_once = batch_size or self.config.generation.batch_size
        if at_once is not None:
            return max(1, at_once // self.line.depth)
        return max(1, min(MOST_ROWS, math.ceil(rows / self.line.depth)))

    def _account(self, batch: Batch, since: float) -> float:
        """Add what an answer took, counted from the one before it: the stages overlap, time does not."""
        now = time.perf_counter()
        if batch.rows[0].tokens:
            self.stats.decode_s += now - since
            self.stats.decode_tokens += len(batch.rows)
        else:
            self.stats.prefill_s += now - since
            self.stats.prefill_tokens += sum(len(row.prompt) for row in batch.rows)
        return now

    def _take(self, batch: Batch, answer: Message) -> tuple[list[Event], list[int]]:
        """Give each row its token; return what came of that, and the places of the others."""
        assert answer.numbers is not None
        seconds = time.perf_counter() - batch.started
        ended: list[Event] = []
        kept = []
        for place, (row, token) in enumerate(zip(batch.rows, answer.numbers[:, 0].tolist(), strict=True)):
            if not row.tokens:
                row.first_token_s = seconds
            reason = self.stopping.accept(row, token, ended)
            if reason is None:
                kept.append(place)
            else:
                ended.append(self.stopping.completion(row, reason, seconds))
        return ended, kept

    def _prefill(self, batch: Batch) -> None:
        """Send the prompts: a line of numbers a row, its index, its length and its ids flush right."""
        width = max(len(row.prompt) for row in batch.rows)
        numbers = torch.tensor(
            [
                [int(row.request.id), len(row.prompt), *[self.pad] * (width - len(row.prompt)), *row.prompt]
                for row in batch.rows
            ]
        )
        self.line.step(Message(Kind.prefill, batch.number, numbers), numbers[:, 2:])

    def _decode(self, batch: Batch, kept: list[int]) -> None:
        """Send the last tokens, and which rows go on where some have ended."""
        numbers = None if len(kept) == len(batch.rows) else torch.tensor(kept)[:, None]
        batch.rows = [batch.rows[place] for place in kept]
        tokens = torch.tensor([[row.tokens[-1]] for row in batch.rows])
        self.line.step(Message(Kind.decode, batch.number, numbers), tokens)
