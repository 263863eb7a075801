"""Plain decoding: left-padded batches through the model as transformers has it.

For rows that the scheduler cannot serve, and for comparison with it. A row leaves as soon as it ends; once half the
rows of a batch are gone, their share of the KV cache is dropped. Rows that come meanwhile wait for the next batch.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from runner.engines.base import EngineStats, Event, RequestId
from runner.engines.local.forward import most_positions, score, scored
from runner.engines.rows import Row, Stopping
from runner.engines.sampling import sampler_of
from runner.models.load import Loaded


class PlainBatches:
    """Takes rows through the model, one batch after the other."""

    def __init__(self, loaded: Loaded, size: int, stats: EngineStats, stopping: Stopping) -> None:
        self.loaded, self.size, self.stats, self.stopping = loaded, size, stats, stopping
        self.waiting: list[Row] = []
        self.batch: _Batch | None = None

    @property
    def is_busy(self) -> bool:
        """Whether rows are on their way."""
        return bool(self.waiting or self.batch)

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows wait behind those that wait already, the longest prompts first."""
        self.waiting += sorted(rows, key=lambda row: len(row.prompt), reverse=True)

    def cancel(self, ids: Collection[RequestId]) -> list[Event]:
        """End the rows of these requests, with what they have got so far."""
        events: list[Event] = []
        for row in self.waiting:
            if row.request.id in ids:
                self.stopping.cancel(row, 0.0, events)
        self.waiting = [row for row in self.waiting if row.request.id not in ids]
        if self.batch is not None:
            self.batch.cancel(ids, events)
            if not self.batch.alive:
                self.batch = None
        return events

    def step(self) -> list[Event]:
        """Give every row of the batch one more token, or begin the next batch."""
        events: list[Event] = []
        if self.batch is None:
            is_scored = self.waiting[0].given is not None
            rows = [row for row in self.waiting if (row.given is not None) is is_scored][: self.size]
            taken = set(rows)
            self.waiting = [row for row in self.waiting if row not in taken]
            if is_scored:
                return _score(self.loaded, rows, self.stats)
            self.batch = _Batch(self.loaded, rows, self.stats, self.stopping)
        else:
            self.batch.decode()
        self.batch.settle(events)
        if not self.batch.alive:
            self.batch = None
        return events

    def close(self) -> None:
        """Let go of all rows."""
        self.waiting, self.batch = [], None


class _Batch:
    """Rows that were read together, and go on together."""

    def __init__(self, loaded: Loaded, rows: list[Row], stats: EngineStats, stopping: Stopping) -> None:
        self.loaded, self.stats, self.stopping = loaded, stats, stopping
        self.alive = dict(enumerate(rows))  # by their places in the batch: rows that still want tokens
        started = time.perf_counter()
        ids, self.mask, self.positions = _left_pad([row.prompt for row in rows], loaded)  # [B, P]
        self.cache = DynamicCache(config=loaded.model.config)
        self.sampler = sampler_of(rows, int(loaded.metrics["vocab_size"]), loaded.device)
        self._pick(ids)
        self.busy_s = time.perf_counter() - started  # time spent here: what the caller does meanwhile is not ours
        stats.prefill_s += self.busy_s
        stats.prefill_tokens += sum(len(row.prompt) for row in rows)
        for row in rows:
            row.first_token_s = self.busy_s

    def _pick(self, ids: torch.Tensor) -> None:
        """Pick the next token of each row, after these have been through the model."""
        logits = _forward(self.loaded, ids, self.mask, self.positions, self.cache)
        picked = self.sampler.pick(logits[:, -1])  # [B]
        self.chosen: list[int] = picked.tolist()  # waits for the device
        self.tokens = picked.clamp(min=0)  # rows that have ended without one stay in the batch for a while

    def settle(self, events: list[Event]) -> None:
        """Note the new tokens, and let go of the rows that end with them."""
        started = time.perf_counter()
        for at, row in list(self.alive.items()):
            if not self.stopping.accept(row, self.chosen[at], self.busy_s, events):
                del self.alive[at]
        self.stats.decode_s += time.perf_counter() - started

    def decode(self) -> None:
        """Compute the next token of each row."""
        started = time.perf_counter()
        if len(self.alive) <= len(self.mask) // 2:
            kept = torch.tensor(list(self.alive), device=self.loaded.device)
            self.cache.batch_select_indices(kept)
            self.sampler.keep(kept)
            self.mask, self.positions, self.tokens = self.mask[kept], self.positions[kept], self.tokens[kept]
            self.alive = dict(enumerate(self.alive.values()))
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)  # [B, P + steps]
        self.positions = self.positions[:, -1:] + 1  # [B, 1]
        self._pick(self.tokens[:, None])
        step_s = time.perf_counter() - started
        self.busy_s += step_s
        self.stats.decode_s += step_s
        self.stats.decode_tokens += len(self.alive)

    def cancel(self, ids: Collection[RequestId], events: list[Event]) -> None:
        """Let go of the rows of these requests."""
        for at, row in list(self.alive.items()):
            if row.request.id in ids:
                self.stopping.cancel(row, self.busy_s, events)
                del self.alive[at]


def _score(loaded: Loaded, rows: list[Row], stats: EngineStats) -> list[Event]:
    """Read prompts with their continuations, in pieces that leave few enough logits, and score these."""
    started = time.perf_counter()
    ids, mask, positions = _left_pad([row.pending for row in rows], loaded)  # [B, W]
    width, longest = ids.shape[1], max(len(row.given or ()) for row in rows)
    most = max(most_positions(loaded.device, int(loaded.metrics["vocab_size"])) // len(rows), 1)
    cache, first = DynamicCache(config=loaded.model.config), 0
    for wanted in range(width - longest, width, most):  # the first place of each piece whose logits are wanted
        last = min(wanted + most, width)
        logits = _forward(loaded, ids[:, first:last], mask[:, :last], positions[:, first:last], cache, last - wanted)
        for row, some in zip(rows, logits, strict=True):
            given = row.given or []
            begin = width - len(given)  # before its first token
            if last > begin:
                score(row, some[max(begin - wanted, 0) :], given[max(wanted - begin, 0) : last - begin])
        first = last
    seconds = time.perf_counter() - started
    stats.prefill_s += seconds
    stats.prefill_tokens += sum(len(row.pending) for row in rows)
    return [scored(row, seconds) for row in rows]


def _forward(
    loaded: Loaded, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, keep: int = 1
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
    logits: torch.Tensor = output.logits
    return logits


def _left_pad(prompts: list[list[int]], loaded: Loaded) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask and positions, all [B, longest], the prompts flush right; positions do not count padding."""
    width, pad = max(map(len, prompts)), loaded.tokenizer.pad_token_id or 0
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=loaded.device)
    return torch.tensor(ids, device=loaded.device), mask, (mask.cumsum(dim=-1) - 1).clamp_(min=0)
