"""Static batching with the model's original attention and cache.

Serves models that the continuous-batching scheduler does not support.

A sequence leaves as soon as it ends. Once half the sequences of a batch have left, their
share of the cache is dropped. New sequences wait for the next batch. When memory runs
out, half as many sequences continue from their tokens so far.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from runner_base import MEMORY_ERRORS, FinishReason, is_out_of_memory_error
from runner_base.notes import Note, note
from runner_engine.decode.generate_batches import GenerateBatch, score_without_cache
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import (
    Stopping,
    build_scored_completion,
    compute_max_scored_positions,
    create_sampler,
    score_tokens,
)
from runner_engine.memory import (
    MemoryGuard,
    record_activation_peak,
    record_cache_peak,
    release_memory_after_failure,
)
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.vocabulary import choose_padding_id, count_token_ids_with_embedding
from runner_engine.sessions import EngineStats, Event, RequestId, SequenceCount, SequenceShortage


@dataclass(frozen=True)
class BatchingMode:
    """Restrictions that the model imposes on static batching."""

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


BY_GENERATE = BatchingMode(by_generate=True, equal_length=True)
STATIC_ROWS = 16  # of a static batch, where the number is ours to choose


class StaticBatches:
    """Decodes sequences in static batches, one batch after another."""

    def __init__(
        self,
        loaded: LoadedModel,
        max_batch_size: int,
        stats: EngineStats,
        stopping: Stopping,
        batching: BatchingMode,
    ) -> None:
        self.loaded, self.stats, self.stopping, self.batching = loaded, stats, stopping, batching
        self.count = SequenceCount(stats)
        self.asked_size = 1 if batching.alone else max_batch_size
        self.size = self.asked_size  # of the next batches: smaller once memory has run out
        self.memory, self.has_noted_shortage = MemoryGuard(loaded.model, loaded.device), False
        self.waiting: list[TokenSequence] = []
        self.batch: Batch | GenerateBatch | None = None

    @property
    def is_busy(self) -> bool:
        return bool(self.waiting or self.batch)

    def add_sequences(self, sequences: Sequence[TokenSequence]) -> None:
        """Append sequences to the waiting queue, and sort the queue by prompt length, longest first."""
        if not self.is_busy:
            self.size, self.has_noted_shortage = self.asked_size, False
        for row in sequences:
            row.restart()  # with other rows beside it, an answer that was begun would go on differently
        self.waiting += sorted(sequences, key=lambda row: len(row.prompt), reverse=True)

    def cancel_requests(self, request_ids: Collection[RequestId]) -> list[Event]:
        """End the sequences of these requests. Each completion contains the tokens generated so far."""
        events: list[Event] = []
        for row in self.waiting:
            if row.request.id in request_ids:
                self.stopping.cancel_sequence(row, 0.0, events)
        self.waiting = [row for row in self.waiting if row.request.id not in request_ids]
        if self.batch is not None:
            self.batch.cancel_requests(request_ids, events)
            if not self.batch.alive:
                self.batch = None
        self._update_sequence_counts()
        return events

    def step(self) -> list[Event]:
        """Decode one token for each sequence of the batch, or start the next batch."""
        events: list[Event] = []
        rows: list[TokenSequence] = []
        try:
            if self.batch is None:
                rows = self._take_next_batch()
                if rows[0].given is not None:
                    self._update_sequence_counts()
                    return self._score_continuations(rows)
                if self.batching.by_generate:
                    self.batch = GenerateBatch(self.loaded, rows, self.stats, self.stopping, self.memory)
                else:
                    self.batch = Batch(
                        self.loaded, rows, self.stats, self.stopping, self.batching.equal_length
                    )
            else:
                self.memory.check(self.batch.width)
            self._update_sequence_counts()  # generate decodes whole rows in one step
            self.batch.step(events)
            if not self.batch.alive:
                self.batch = None
        except MEMORY_ERRORS as error:
            events += self._recover_from_oom(error, rows)
        self._update_sequence_counts()
        return events

    def close(self) -> None:
        self.waiting, self.batch = [], None
        self._update_sequence_counts()

    def _update_sequence_counts(self) -> None:
        self.count.update(len(self.batch.alive) if self.batch else 0, len(self.waiting))

    def _take_next_batch(self) -> list[TokenSequence]:
        """Take the next batch from the waiting queue. A batch either decodes or scores all its sequences."""
        first = self.waiting[0]
        fitting = (row for row in self.waiting if (row.given is None) is (first.given is None))
        if self.batching.equal_length:
            fitting = (row for row in fitting if len(row.pending_tokens) == len(first.pending_tokens))
        rows = self._select_sequences_that_fit_memory(list(fitting)[: self.size])
        taken = set(rows)
        self.waiting = [row for row in self.waiting if row not in taken]
        return rows

    def _score_continuations(self, sequences: list[TokenSequence]) -> list[Event]:
        started = time.perf_counter()
        score_rows = score_without_cache if self.batching.by_generate else _score_continuations_in_chunks
        score_rows(self.loaded, sequences, self.stats)
        seconds = time.perf_counter() - started
        self.stats.prefill_s += seconds
        self.stats.prefill_tokens += sum(len(row.pending_tokens) for row in sequences)
        return [build_scored_completion(row, seconds) for row in sequences]

    def _select_sequences_that_fit_memory(self, sequences: list[TokenSequence]) -> list[TokenSequence]:
        """Return the first waiting sequences that fit in free memory together, at least one."""
        prompt = max(len(row.pending_tokens) for row in sequences)
        new = max(row.max_kv_tokens - len(row.pending_tokens) for row in sequences)
        count = len(sequences)
        while count > 1 and not self.memory.has_memory_for_batch(count, prompt, max(new, 0)):
            count -= 1
        if count < len(sequences) and not self.has_noted_shortage:
            self.has_noted_shortage = True
            self.stats.row_shortages.append(SequenceShortage(count, len(sequences)))
        return sequences[:count]

    def _recover_from_oom(self, error: BaseException, sequences: list[TokenSequence]) -> list[Event]:
        """After an out-of-memory error, requeue the batch's sequences and halve the batch size.

        Re-raises other errors.
        """
        if not is_out_of_memory_error(error):
            raise error
        width = len(sequences)
        if self.batch is not None:
            sequences, width = list(self.batch.alive.values()), self.batch.width
        self.batch = None
        release_memory_after_failure(error, self.loaded.device)
        self.memory.invalidate()
        for row in sequences:
            row.scores.clear()
            row.generator = None  # as in the scheduler: it goes on from the row's tokens
        if width == 1:
            row = sequences[0]
            row.error = note("row_out_of_memory", tokens=len(row.pending_tokens))
            return [self.stopping.build_completion(row, FinishReason.error, 0.0)]
        self.waiting = sequences + self.waiting
        self.size = width // 2
        self.stats.row_shortages.append(SequenceShortage(self.size, width, ran_out=True))
        return []


class Batch:
    """A static batch: sequences that are prefilled and decoded together."""

    def __init__(
        self,
        loaded: LoadedModel,
        sequences: list[TokenSequence],
        stats: EngineStats,
        stopping: Stopping,
        equal_length: bool,
    ) -> None:
        self.loaded, self.stats, self.stopping, self.equal_length = (loaded, stats, stopping, equal_length)
        self.alive = dict(enumerate(sequences))  # by their places in the batch: rows that have not ended
        self.cache: Any = None
        self.tokens = torch.empty(0, dtype=torch.long)  # the last of each row, in the batch's order
        self.busy_s = 0.0  # the time spent in this batch, without the caller's

    @property
    def width(self) -> int:
        """Number of sequences in the batch, including those that have ended but are still in the KV cache."""
        return len(self.alive) if self.cache is None else len(self.mask)

    def step(self, events: list[Event]) -> None:
        started = time.perf_counter()
        is_first = self.cache is None
        logits = self.prefill() if is_first else self.decode()
        tokens: list[int] = self.sample_tokens(logits).tolist()  # waits for the device
        step_s = time.perf_counter() - started
        self.busy_s += step_s
        if is_first:
            self.stats.prefill_s += step_s
            self.stats.prefill_tokens += sum(len(row.pending_tokens) for row in self.alive.values())
            for row in self.alive.values():
                row.first_token_s = row.first_token_s or self.busy_s
        else:
            self.stats.decode_s += step_s
            self.stats.decode_tokens += len(self.alive)
        record_cache_peak(self.stats, self.cache)
        started = time.perf_counter()
        for at, row in list(self.alive.items()):
            if not self.stopping.accept_token(row, tokens[at], self.busy_s, events):
                del self.alive[at]
        self.stats.decode_s += time.perf_counter() - started

    def prefill(self) -> torch.Tensor:
        """Prefill the prompts. Returns the logits [B, V] of the last position of each prompt."""
        rows = list(self.alive.values())
        # [B, P]
        ids, self.mask, self.positions = _left_pad_prompts([row.pending_tokens for row in rows], self.loaded)
        self.cache = DynamicCache(config=self.loaded.model.config)
        self.sampler = create_sampler(rows, int(self.loaded.metrics["vocab_size"]), self.loaded.device)
        return self._compute_last_logits(ids)

    def decode(self) -> torch.Tensor:
        """Run the model on each sequence's last token. Returns the logits [B, V]."""
        if len(self.alive) <= len(self.mask) // 2:
            alive = torch.tensor(list(self.alive), device=self.loaded.device)
            # as for beams: this handles every kind of state, on its own device
            self.cache.reorder_cache(alive)
            self.sampler.keep_sequences_at_indices(list(self.alive))
            self.mask, self.positions, self.tokens = (
                self.mask[alive],
                self.positions[alive],
                self.tokens[alive],
            )
            self.alive = dict(enumerate(self.alive.values()))
        # [B, P + steps]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        self.positions = self.positions[:, -1:] + 1  # [B, 1]
        return self._compute_last_logits(self.tokens[:, None])

    def sample_tokens(self, logits: torch.Tensor) -> torch.Tensor:
        self.stopping.constrain_logits(logits, self.alive.values(), list(self.alive))
        picked = self.sampler.sample(logits)
        # rows that end without a token stay in the batch for a while
        self.tokens = picked.clamp(min=0)
        return picked

    def _compute_last_logits(self, token_ids: torch.Tensor) -> torch.Tensor:
        mask = None if self.equal_length else self.mask
        return _forward_with_cache(self.loaded, self.stats, token_ids, mask, self.positions, self.cache)[
            :, -1
        ]

    def cancel_requests(self, request_ids: Collection[RequestId], events: list[Event]) -> None:
        for at, row in list(self.alive.items()):
            if row.request.id in request_ids:
                self.stopping.cancel_sequence(row, self.busy_s, events)
                del self.alive[at]


def _score_continuations_in_chunks(
    loaded: LoadedModel, sequences: list[TokenSequence], stats: EngineStats
) -> None:
    """Score continuations in chunks, to limit the memory of logits."""
    ids, mask, positions = _left_pad_prompts([row.pending_tokens for row in sequences], loaded)  # [B, W]
    width, longest = ids.shape[1], max(len(row.given or ()) for row in sequences)
    most = max(
        compute_max_scored_positions(loaded.device, int(loaded.metrics["vocab_size"])) // len(sequences), 1
    )
    cache, first = DynamicCache(config=loaded.model.config), 0
    for wanted in range(
        width - longest, width, most
    ):  # the first place of each piece whose logits are wanted
        last = min(wanted + most, width)
        place = positions[:, first:last]
        logits = _forward_with_cache(
            loaded, stats, ids[:, first:last], mask[:, :last], place, cache, last - wanted
        )
        for row, some in zip(sequences, logits, strict=True):
            given = row.given or []
            begin = width - len(given)  # before its first token
            if last > begin:
                score_tokens(
                    row, some[max(begin - wanted, 0) :], given[max(wanted - begin, 0) : last - begin]
                )
        first = last
    record_cache_peak(stats, cache)


def _forward_with_cache(
    loaded: LoadedModel,
    stats: EngineStats,
    token_ids: torch.Tensor,
    mask: torch.Tensor | None,
    positions: torch.Tensor,
    cache: Any,
    num_logits: int = 1,
) -> torch.Tensor:
    """Run the model and update the cache. Returns the logits [B, num_logits, V] of the last positions."""
    with torch.inference_mode():
        output = loaded.model(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=num_logits,
        )
    record_activation_peak(stats, loaded, token_ids.numel(), len(token_ids) * output.logits.shape[1])
    # some models return logits of all tokens; with several devices, they are on the last one
    logits: torch.Tensor = output.logits[:, -num_logits:].to(loaded.device)
    return logits


def _left_pad_prompts(
    prompts: list[list[int]], loaded: LoadedModel
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad prompts on the left. Returns token ids, attention mask and position ids, all [B, longest]."""
    width, pad = (
        max(map(len, prompts)),
        choose_padding_id(loaded.tokenizer, count_token_ids_with_embedding(loaded.model)),
    )
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=loaded.device
    )
    return torch.tensor(ids, device=loaded.device), mask, (mask.cumsum(dim=-1) - 1).clamp_(min=0)
