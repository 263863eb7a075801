"""Static batching: batches with the model's own attention and cache, for rows that the scheduler
cannot serve.

A row leaves as soon as it ends; once half the rows of a batch have left, their share of the cache
is dropped. New rows wait for the next batch. When memory runs out, half as many rows continue from
the tokens that they have.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from runner_base import MEMORY_ERRORS, FinishReason, is_memory_error
from runner_base.notes import Note, note
from runner_engine.decode.by_generate import Generated, score_without_cache
from runner_engine.decode.rows import Row
from runner_engine.decode.tokens import Stopping, most_positions, sampler_of, score, scored
from runner_engine.memory import MemoryGuard, note_cache, note_pass, release_failed_pass
from runner_engine.models.load import Loaded
from runner_engine.models.vocabulary import padding_of, rows_of
from runner_engine.sessions import EngineStats, Event, RequestId, RowCount, RowShortage


@dataclass(frozen=True)
class Batching:
    """Which batches a model supports; the fewer restrictions, the faster."""

    by_generate: bool = False  # decoded by transformers' generate and not by our own loop
    equal_length: bool = False  # prompts of equal length: the model cannot ignore padding
    alone: bool = False  # one prompt at a time
    # why a batching with fewer restrictions would be wrong
    why: Note | None = field(default=None, compare=False)

    def __str__(self) -> str:
        name = "transformers' generate" if self.by_generate else "static batching"
        return name + (
            ", one prompt at a time" if self.alone else ", equal lengths" if self.equal_length else ""
        )


BY_GENERATE = Batching(by_generate=True, equal_length=True)
STATIC_ROWS = 16  # of a static batch, where the number is ours to choose


class StaticBatches:
    """Decodes rows, one batch after the other."""

    def __init__(
        self, loaded: Loaded, size: int, stats: EngineStats, stopping: Stopping, batching: Batching
    ) -> None:
        self.loaded, self.stats, self.stopping, self.batching = loaded, stats, stopping, batching
        self.count = RowCount(stats)
        self.asked_size = 1 if batching.alone else size
        self.size = self.asked_size  # of the next batches: smaller once memory has run out
        self.memory, self.has_noted_shortage = MemoryGuard(loaded.model, loaded.device), False
        self.waiting: list[Row] = []
        self.batch: Batch | Generated | None = None

    @property
    def is_busy(self) -> bool:
        """Whether there are rows."""
        return bool(self.waiting or self.batch)

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows behind those that are waiting, the longest prompts first."""
        if not self.is_busy:
            self.size, self.has_noted_shortage = self.asked_size, False
        for row in rows:
            row.begin_again()  # with other rows beside it, an answer that was begun would go on differently
        self.waiting += sorted(rows, key=lambda row: len(row.prompt), reverse=True)

    def cancel(self, ids: Collection[RequestId]) -> list[Event]:
        """End the rows of these requests with the tokens that they have."""
        events: list[Event] = []
        for row in self.waiting:
            if row.request.id in ids:
                self.stopping.cancel(row, 0.0, events)
        self.waiting = [row for row in self.waiting if row.request.id not in ids]
        if self.batch is not None:
            self.batch.cancel(ids, events)
            if not self.batch.alive:
                self.batch = None
        self._count()
        return events

    def step(self) -> list[Event]:
        """Give every row of the batch one more token, or begin the next batch."""
        events: list[Event] = []
        rows: list[Row] = []
        try:
            if self.batch is None:
                rows = self._take()
                if rows[0].given is not None:
                    self._count()
                    return self._score(rows)
                if self.batching.by_generate:
                    self.batch = Generated(self.loaded, rows, self.stats, self.stopping, self.memory)
                else:
                    self.batch = Batch(
                        self.loaded, rows, self.stats, self.stopping, self.batching.equal_length
                    )
            else:
                self.memory.check(self.batch.width)
            self._count()  # generate decodes whole rows in one step
            self.batch.step(events)
            if not self.batch.alive:
                self.batch = None
        except MEMORY_ERRORS as error:
            events += self._shrink(error, rows)
        self._count()
        return events

    def close(self) -> None:
        """Drop all rows."""
        self.waiting, self.batch = [], None
        self._count()

    def _count(self) -> None:
        self.count.now(len(self.batch.alive) if self.batch else 0, len(self.waiting))

    def _take(self) -> list[Row]:
        """Take the rows of the next batch from `waiting`: all to be decoded or all to be scored."""
        first = self.waiting[0]
        fitting = (row for row in self.waiting if (row.given is None) is (first.given is None))
        if self.batching.equal_length:
            fitting = (row for row in fitting if len(row.pending) == len(first.pending))
        rows = self._fitting_rows(list(fitting)[: self.size])
        taken = set(rows)
        self.waiting = [row for row in self.waiting if row not in taken]
        return rows

    def _score(self, rows: list[Row]) -> list[Event]:
        """Score the rows' continuations."""
        started = time.perf_counter()
        score_rows = score_without_cache if self.batching.by_generate else _score_in_pieces
        score_rows(self.loaded, rows, self.stats)
        seconds = time.perf_counter() - started
        self.stats.prefill_s += seconds
        self.stats.prefill_tokens += sum(len(row.pending) for row in rows)
        return [scored(row, seconds) for row in rows]

    def _fitting_rows(self, rows: list[Row]) -> list[Row]:
        """Return the first of these rows that memory has room for together, at least one."""
        prompt = max(len(row.pending) for row in rows)
        new = max(row.need - len(row.pending) for row in rows)
        count = len(rows)
        while count > 1 and not self.memory.fits(count, prompt, max(new, 0)):
            count -= 1
        if count < len(rows) and not self.has_noted_shortage:
            self.has_noted_shortage = True
            self.stats.row_shortages.append(RowShortage(count, len(rows)))
        return rows[:count]

    def _shrink(self, error: BaseException, rows: list[Row]) -> list[Event]:
        """Move the batch's rows back and continue with half as many; raise an error that is not
        about memory."""
        if not is_memory_error(error):
            raise error
        width = len(rows)
        if self.batch is not None:
            rows, width = list(self.batch.alive.values()), self.batch.width
        self.batch = None
        release_failed_pass(error, self.loaded.device)
        self.memory.forget()
        for row in rows:
            row.scores.clear()
            row.generator = None  # as in the scheduler: it goes on from the row's tokens
        if width == 1:
            row = rows[0]
            row.error = note("row_out_of_memory", tokens=len(row.pending))
            return [self.stopping.completion(row, FinishReason.error, 0.0)]
        self.waiting = rows + self.waiting
        self.size = width // 2
        self.stats.row_shortages.append(RowShortage(self.size, width, ran_out=True))
        return []


class Batch:
    """Rows that are read and decoded together."""

    def __init__(
        self, loaded: Loaded, rows: list[Row], stats: EngineStats, stopping: Stopping, equal_length: bool
    ) -> None:
        self.loaded, self.stats, self.stopping, self.equal_length = (loaded, stats, stopping, equal_length)
        self.alive = dict(enumerate(rows))  # by their places in the batch: rows that have not ended
        self.cache: Any = None
        self.tokens = torch.empty(0, dtype=torch.long)  # the last of each row, in the batch's order
        self.busy_s = 0.0  # the time spent in this batch, without the caller's

    @property
    def width(self) -> int:
        """The number of rows in the cache, or before the first step, in the batch."""
        return len(self.alive) if self.cache is None else len(self.mask)

    def step(self, events: list[Event]) -> None:
        """Compute the next token of each row, note it, and remove the rows that end with it."""
        started = time.perf_counter()
        is_first = self.cache is None
        logits = self.read() if is_first else self.decode()
        tokens: list[int] = self.pick(logits).tolist()  # waits for the device
        step_s = time.perf_counter() - started
        self.busy_s += step_s
        if is_first:
            self.stats.prefill_s += step_s
            self.stats.prefill_tokens += sum(len(row.pending) for row in self.alive.values())
            for row in self.alive.values():
                row.first_token_s = row.first_token_s or self.busy_s
        else:
            self.stats.decode_s += step_s
            self.stats.decode_tokens += len(self.alive)
        note_cache(self.stats, self.cache)
        started = time.perf_counter()
        for at, row in list(self.alive.items()):
            if not self.stopping.accept(row, tokens[at], self.busy_s, events):
                del self.alive[at]
        self.stats.decode_s += time.perf_counter() - started

    def read(self) -> torch.Tensor:
        """Read the prompts; return the logits [B, V] after them."""
        rows = list(self.alive.values())
        # [B, P]
        ids, self.mask, self.positions = _left_pad([row.pending for row in rows], self.loaded)
        self.cache = DynamicCache(config=self.loaded.model.config)
        self.sampler = sampler_of(rows, int(self.loaded.metrics["vocab_size"]), self.loaded.device)
        return self._logits(ids)

    def decode(self) -> torch.Tensor:
        """Read the last tokens; return the logits [B, V] after them."""
        if len(self.alive) <= len(self.mask) // 2:
            alive = torch.tensor(list(self.alive), device=self.loaded.device)
            # as for beams: this handles every kind of state, on its own device
            self.cache.reorder_cache(alive)
            self.sampler.keep(list(self.alive))
            self.mask, self.positions, self.tokens = (
                self.mask[alive],
                self.positions[alive],
                self.tokens[alive],
            )
            self.alive = dict(enumerate(self.alive.values()))
        # [B, P + steps]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        self.positions = self.positions[:, -1:] + 1  # [B, 1]
        return self._logits(self.tokens[:, None])

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Pick the next token of each row."""
        self.stopping.force(logits, self.alive.values(), list(self.alive))
        picked = self.sampler.pick(logits)
        # rows that end without a token stay in the batch for a while
        self.tokens = picked.clamp(min=0)
        return picked

    def _logits(self, ids: torch.Tensor) -> torch.Tensor:
        mask = None if self.equal_length else self.mask
        return _forward(self.loaded, self.stats, ids, mask, self.positions, self.cache)[:, -1]

    def cancel(self, ids: Collection[RequestId], events: list[Event]) -> None:
        """End the rows of these requests."""
        for at, row in list(self.alive.items()):
            if row.request.id in ids:
                self.stopping.cancel(row, self.busy_s, events)
                del self.alive[at]


def _score_in_pieces(loaded: Loaded, rows: list[Row], stats: EngineStats) -> None:
    """Read prompts with their continuations, in pieces with few enough logits, and score these."""
    ids, mask, positions = _left_pad([row.pending for row in rows], loaded)  # [B, W]
    width, longest = ids.shape[1], max(len(row.given or ()) for row in rows)
    most = max(most_positions(loaded.device, int(loaded.metrics["vocab_size"])) // len(rows), 1)
    cache, first = DynamicCache(config=loaded.model.config), 0
    for wanted in range(
        width - longest, width, most
    ):  # the first place of each piece whose logits are wanted
        last = min(wanted + most, width)
        place = positions[:, first:last]
        logits = _forward(loaded, stats, ids[:, first:last], mask[:, :last], place, cache, last - wanted)
        for row, some in zip(rows, logits, strict=True):
            given = row.given or []
            begin = width - len(given)  # before its first token
            if last > begin:
                score(row, some[max(begin - wanted, 0) :], given[max(wanted - begin, 0) : last - begin])
        first = last
    note_cache(stats, cache)


def _forward(
    loaded: Loaded,
    stats: EngineStats,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    positions: torch.Tensor,
    cache: Any,
    keep: int = 1,
) -> torch.Tensor:
    """Return the logits [B, keep, V] after the last positions."""
    with torch.inference_mode():
        output = loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
    note_pass(stats, loaded, ids.numel(), len(ids) * output.logits.shape[1])
    # some models return logits of all tokens; with several devices, they are on the last one
    logits: torch.Tensor = output.logits[:, -keep:].to(loaded.device)
    return logits


def _left_pad(prompts: list[list[int]], loaded: Loaded) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask and positions, all [B, longest], padded on the left; positions do not count
    padding."""
    width, pad = max(map(len, prompts)), padding_of(loaded.tokenizer, rows_of(loaded.model))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=loaded.device
    )
    return torch.tensor(ids, device=loaded.device), mask, (mask.cumsum(dim=-1) - 1).clamp_(min=0)
