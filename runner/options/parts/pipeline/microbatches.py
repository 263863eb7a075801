"""Schedules a pipeline's micro-batches, and processes the tokens that the last stage returns.

Sequences pass through the stages in micro-batches. As many micro-batches as processes are
in flight, so that every stage is busy. A micro-batch whose tokens have returned is sent
again with them.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from runner.options.parts.pipeline.transport import (
    SETTINGS,
    Packet,
    PacketType,
    encode_forced_tokens,
    pack_sequences,
)
from runner_engine import EngineStats, Event, RequestId
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import Stopping

MAX_ROWS = 16  # of a micro-batch, if model.micro_batch is not set
Send = Callable[[Packet, torch.Tensor | None], None]


@dataclass
class MicroBatch:
    """A group of sequences that pass through the pipeline stages together."""

    number: int
    rows: list[TokenSequence]
    dropped: set[TokenSequence] = field(default_factory=set)  # cancelled while the micro-batch was under way
    started: float = field(default_factory=time.perf_counter)


class MicroBatchScheduler:
    """Sends sequences through the pipeline until all are complete, with `depth` micro-batches in flight.

    `send` sends a packet through the stages, with its token ids [B, T] if it has any. `receive`
    waits for the tokens of the next returning micro-batch.
    """

    def __init__(
        self,
        depth: int,
        send_packet: Send,
        receive_packet: Callable[[], Packet],
        stats: EngineStats,
        stopping: Stopping,
        pad_token: int,
    ) -> None:
        self.depth, self.send, self.receive = depth, send_packet, receive_packet
        self.stats, self.stopping, self.pad = stats, stopping, pad_token
        self.fixed_rows: int | None = None  # of a micro-batch, by model.micro_batch
        self.rows_at_once: int | None = None  # of all micro-batches together
        self._waiting: deque[TokenSequence] = deque()
        self._under_way: dict[int, MicroBatch] = {}
        self._rows_per_batch = 1
        # stages identify a micro-batch by its number, so none is used twice
        self._numbers = itertools.count()
        self._last_answer = 0.0

    def add(self, sequences: list[TokenSequence]) -> None:
        """Queue sequences for the next micro-batches. Sorting by prompt length reduces padding."""
        self._waiting.extend(sorted(sequences, key=lambda row: len(row.prompt), reverse=True))
        if self.rows_at_once is not None:
            share = max(1, self.rows_at_once // self.depth)
            self._rows_per_batch = min(share, self.fixed_rows or share)
        elif self.fixed_rows is not None:
            self._rows_per_batch = self.fixed_rows
        else:  # few enough for a micro-batch in every stage
            self._rows_per_batch = max(1, min(MAX_ROWS, math.ceil(len(self._waiting) / self.depth)))

    def cancel_requests(self, request_ids: set[RequestId]) -> list[Event]:
        """Cancel requests. Sequences already in the pipeline are removed when their micro-batch returns."""
        events: list[Event] = []
        for row in self._waiting:
            if row.request.id in request_ids:
                self.stopping.cancel_sequence(row, 0.0, events)
        self._waiting = deque(row for row in self._waiting if row.request.id not in request_ids)
        for batch in self._under_way.values():
            ended = {row for row in batch.rows if row.request.id in request_ids} - batch.dropped
            batch.dropped |= ended
            for row in ended:
                self.stopping.cancel_sequence(row, time.perf_counter() - batch.started, events)
        if not self._waiting and all(
            len(batch.dropped) == len(batch.rows) for batch in self._under_way.values()
        ):
            self.drain()  # no further step would come, and the stages must free them, too
        return events

    def discard_all_sequences(self) -> None:
        """Discard all sequences without emitting events. Each stage frees its KV cache when the
        micro-batch returns.
        """
        self._waiting.clear()
        for batch in self._under_way.values():
            batch.dropped.update(batch.rows)

    def drain(self) -> None:
        """Wait until no micro-batch is left in the pipeline."""
        while self._under_way:
            self.step()

    def step(self) -> list[Event]:
        """Send waiting micro-batches, wait for new tokens from the last stage, and return the resulting
        events.
        """
        if not self._under_way:
            self._last_answer = time.perf_counter()
        at_once = min(self.depth, self.rows_at_once or self.depth)
        while self._waiting and len(self._under_way) < at_once:
            rows = [self._waiting.popleft() for _ in range(min(self._rows_per_batch, len(self._waiting)))]
            batch = MicroBatch(next(self._numbers), rows)
            self._under_way[batch.number] = batch
            prompts = pack_sequences(rows, self.pad, list(map(self.stopping.get_forced_token, rows)))
            self.send(Packet(PacketType.prefill, batch.number, prompts), prompts[:, SETTINGS:])
        if not self._under_way:
            return []
        answer = self.receive()
        batch = self._under_way[answer.batch]
        self._record_timing(batch)
        events, kept = self._append_tokens_and_list_unfinished(batch, answer)
        if kept:  # it is sent again; if some rows have ended, with the numbers of those that go on
            forced = [self.stopping.get_forced_token(batch.rows[number]) for number in kept]
            is_as_before = len(kept) == len(batch.rows) and not any(token is not None for token in forced)
            numbers = (
                None
                if is_as_before
                else torch.tensor([[*pair] for pair in zip(kept, encode_forced_tokens(forced), strict=True)])
            )
            batch.rows, batch.dropped = [batch.rows[number] for number in kept], set()
            tokens = torch.tensor([[row.tokens[-1]] for row in batch.rows])
            self.send(Packet(PacketType.decode, batch.number, numbers), tokens)
        else:
            self.send(Packet(PacketType.end, batch.number), None)
            del self._under_way[batch.number]
        self.stats.rows_waiting = len(self._waiting)
        self.stats.rows_alive = sum(
            len(under_way.rows) - len(under_way.dropped) for under_way in self._under_way.values()
        )
        return events

    def _record_timing(self, batch: MicroBatch) -> None:
        """Add the time since the previous micro-batch returned to the prefill or decode time.

        Stages overlap in time, so the sum of stage times would be too large.
        """
        now = time.perf_counter()
        seconds, self._last_answer = now - self._last_answer, now
        if batch.rows[0].tokens:
            self.stats.decode_s += seconds
            self.stats.decode_tokens += len(batch.rows)
        else:
            self.stats.prefill_s += seconds
            self.stats.prefill_tokens += sum(len(row.prompt) for row in batch.rows)

    def _append_tokens_and_list_unfinished(
        self, batch: MicroBatch, packet: Packet
    ) -> tuple[list[Event], list[int]]:
        assert packet.numbers is not None
        seconds = time.perf_counter() - batch.started
        events: list[Event] = []
        kept = []
        for number, (row, token) in enumerate(zip(batch.rows, packet.numbers[:, 0].tolist(), strict=True)):
            if row in batch.dropped:
                continue
            if not row.tokens:
                row.first_token_s = seconds
            if self.stopping.accept_token(row, token, seconds, events):
                kept.append(number)
        return events, kept
