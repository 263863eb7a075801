"""Plain decoding: left-padded batches through the model as transformers has it.

For models that the stream cannot serve, and for comparison with it. A row leaves as soon as it ends; once half the
rows of a batch are gone, their share of the key-value cache is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from runner.engines.base import EngineStats, Event
from runner.engines.rows import Row
from runner.engines.sampling import sampler_of
from runner.engines.stopping import Stopping
from runner.models.load import Loaded


def decode(
    loaded: Loaded,
    rows: list[Row],
    size: int,
    stats: EngineStats,
    stopping: Stopping,
) -> Iterator[list[Event]]:
    """Yield what came of each pass; rows go through in batches of a size, the longest prompts first."""
    rows = sorted(rows, key=lambda row: len(row.prompt), reverse=True)
    for start in range(0, len(rows), size):
        yield from _batch(loaded, rows[start : start + size], stats, stopping)


def _batch(loaded: Loaded, rows: list[Row], stats: EngineStats, stopping: Stopping) -> Iterator[list[Event]]:
    from transformers import DynamicCache

    device = loaded.device
    started = time.perf_counter()
    input_ids, mask = _left_pad([row.prompt for row in rows], loaded.tokenizer.pad_token_id or 0, device)  # [B, P]
    positions = (mask.cumsum(dim=-1) - 1).clamp_(min=0)  # [B, P]: padding does not count
    cache = DynamicCache(config=loaded.model.config)
    sampler = sampler_of(rows, int(loaded.metrics["vocab_size"]), device)

    tokens = sampler.pick(_forward(loaded, input_ids, mask, positions, cache))  # [B]
    chosen: list[int] = tokens.tolist()  # waits for the device
    busy_s = time.perf_counter() - started  # time spent here: what the caller does with a completion is not ours
    stats.prefill_s += busy_s
    stats.prefill_tokens += sum(len(row.prompt) for row in rows)
    for row in rows:
        row.first_token_s = busy_s

    alive = list(range(len(rows)))  # places in the batch of the rows that still want tokens
    while True:
        started = time.perf_counter()
        events: list[Event] = []
        ended = set()
        for at in alive:
            row = rows[at]
            reason = stopping.accept(row, chosen[at], events)
            if reason is not None:
                events.append(stopping.completion(row, reason, busy_s))
                ended.add(at)
        stats.decode_s += time.perf_counter() - started
        yield events
        alive = [at for at in alive if at not in ended]
        if not alive:
            return
        started = time.perf_counter()
        if len(alive) <= len(rows) // 2:
            kept = torch.tensor(alive, device=device)
            cache.batch_select_indices(kept)
            sampler.keep(kept)
            mask, positions, tokens = mask[kept], positions[kept], tokens[kept]
            rows = [rows[at] for at in alive]
            alive = list(range(len(rows)))
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)  # [B, P + steps]
        positions = positions[:, -1:] + 1  # [B, 1]
        tokens = sampler.pick(_forward(loaded, tokens[:, None], mask, positions, cache))
        chosen = tokens.tolist()
        step_s = time.perf_counter() - started
        busy_s += step_s
        stats.decode_s += step_s
        stats.decode_tokens += len(alive)


def _forward(
    loaded: Loaded, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Return the logits [B, V] after the last position."""
    with torch.inference_mode():
        output = loaded.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    logits: torch.Tensor = output.logits[:, -1]
    return logits


def _left_pad(prompts: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, both [B, longest], the prompts flush right."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
