"""Parallel branches: one main stream, several continuations, decoded side by side over one shared
KV cache.

They need 2D RoPE. Every token has a branch (0 = main, 1 … k) and a time. All branches start where
main ends, at the same time. A token sees all tokens of earlier times, in its own and in the other
branches. The cache holds the prompts column by column: main `a b c`, branches `d e` and `f g h`
make `a b c d f e g h`. Then each forward pass adds one token for each live branch, at the branch's
own next time. Where the prompts differ in length, a branch that is ahead does not see the tokens
that a shorter one adds later at an earlier time: they were not in the cache yet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache

from runner_base import Answer, ConfigError, FinishReason, signals
from runner_engine.decode.rows import NO_NUMBERS, NO_TOKEN, Row
from runner_engine.decode.tokens import Stopping, sampler_of
from runner_engine.memory import note_cache, note_pass
from runner_engine.models.load import Loaded
from runner_engine.models.rope import rope_2d
from runner_engine.render.notes import render
from runner_engine.sessions import Completion, EngineStats

Place = tuple[int, int, int]  # of a token in the cache: its time, its branch, and the token


def columnar(main: Sequence[int], branches: Sequence[Sequence[int]]) -> list[Place]:
    """Lay main and branches out left-aligned: main first, then the tokens of each time, branch by
    branch."""
    placed = [(time, 0, token) for time, token in enumerate(main)]
    for number, branch in enumerate(branches, start=1):
        placed += [(time, number, token) for time, token in enumerate(branch, start=len(main))]
    return sorted(placed, key=lambda place: place[:2])


def may_attend(times: torch.Tensor, queries: int) -> torch.Tensor:
    """Return [queries, N] for the last tokens: token i sees token j when t_j < t_i or i = j."""
    index = torch.arange(len(times), device=times.device)
    last = index[-queries:]
    return (times[None, :] < times[last, None]) | (index[None, :] == last[:, None])


def rejection_reason(model: Any) -> ConfigError | None:
    """Return the error for requests with branches; None where the model's attention can serve
    them."""
    name = str(getattr(model.config.get_text_config(), "_attn_implementation", None))
    if name in ("sdpa", "eager"):
        return None
    return ConfigError(
        f"model.attention={name} takes no mask of its own, which branches need: use sdpa or eager",
        code="unsupported",
    )


class BranchDecoder:
    """The shared cache and its coordinates: prefill once, then one token a live branch for each
    step."""

    def __init__(self, model: Any) -> None:
        self.model = model
        # without the config: a sliding window would drop what branches may still see
        self.cache = DynamicCache()
        self.times: list[int] = []  # of every token in the cache
        self.clocks: dict[int, int] = {}  # branch -> time of its next token

    def prefill(self, main: Sequence[int], branches: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read main and the beginnings of all branches in one pass; return logits [k, V] for their
        next tokens."""
        placed = columnar(main, branches)
        self.clocks = {number: len(main) + len(branch) for number, branch in enumerate(branches, start=1)}
        logits = self._forward(placed)
        last = [len(main) - 1] * len(branches)  # a branch without tokens continues main
        for at, (_, number, _) in enumerate(placed):
            if number:
                last[number - 1] = at
        return logits[last]

    def step(self, tokens: Mapping[int, int]) -> torch.Tensor:
        """Add one token to each branch named (1 … k) in one pass; return their logits [live, V], in
        that order."""
        placed = [(self.clocks[number], number, token) for number, token in tokens.items()]
        for number in tokens:
            self.clocks[number] += 1
        return self._forward(placed)

    def _forward(self, placed: Sequence[Place]) -> torch.Tensor:
        """Return the logits [T, V] of new tokens after they have joined the cache."""
        device = self.model.get_input_embeddings().weight.device
        self.times += [time for time, _, _ in placed]
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        longest = max(self.times) + 1
        if window is not None and longest > window:
            raise ConfigError(
                f"branches reach time {longest}, beyond this model's sliding window of {window} tokens, which the "
                "mask of branches does not cut: use shorter prompts or fewer new tokens",
                code="too_large",
            )
        seen = may_attend(torch.tensor(self.times, device=device), queries=len(placed))
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=device)
        # added to the scores: what eager and sdpa both take
        mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
        times, branches, ids = torch.tensor(placed, device=device).T[:, None]  # each [1, T]
        with torch.inference_mode(), rope_2d.in_branches(self.model), rope_2d.at(self.model, branches, times):
            output = self.model(
                input_ids=ids,
                attention_mask=mask[None, None],
                position_ids=times,  # layers without the patch rotate by time, too: a branch continues where main ends
                past_key_values=self.cache,
                use_cache=True,
            )
        logits: torch.Tensor = output.logits[0]
        return logits


def unanswered(rows: Sequence[Row], reason: FinishReason) -> Completion:
    """Return the completion of a request with branches that were not decoded."""
    at = rows[0].branch_at
    prompt_tokens = at + sum(len(row.prompt) - at for row in rows)
    answer = Answer("", [], reason)
    return replace(rows[0].completion(reason, 0.0), answer=answer, choice=0, prompt_tokens=prompt_tokens)


def complete(loaded: Loaded, rows: Sequence[Row], stats: EngineStats, stopping: Stopping) -> Completion:
    """Answer a request with branches, a row for each: the prompt is main, and the text of each
    branch continues it.

    A sampled branch depends on the seed, the request's id and its own number, and on the tokens of
    other branches that it sees.
    """
    completion = unanswered(rows, FinishReason.error)
    if completion.error:
        return completion
    decoder, at = BranchDecoder(loaded.model), rows[0].branch_at
    reasons: dict[int, FinishReason] = {}
    live, started = list(rows), time.perf_counter()
    logits = decoder.prefill(rows[0].prompt[:at], [row.prompt[at:] for row in rows])
    # of a model on several devices, the last one holds the logits
    sampler = sampler_of(rows, int(loaded.metrics["vocab_size"]), logits.device)
    while True:
        signals.interrupt_if_noted()
        stopping.force(logits, live)
        tokens = sampler.pick(logits).tolist()
        completion.first_token_s = completion.first_token_s or time.perf_counter() - started
        going = []
        for place, (row, token) in enumerate(zip(live, tokens, strict=True)):
            if token == NO_TOKEN:
                completion.error = render(NO_NUMBERS)
                reasons[row.choice] = FinishReason.error
                continue
            row.tokens.append(token)
            reason = stopping.finish_reason(row)
            if reason is None:
                going.append(place)
            else:
                reasons[row.choice] = reason
        if not going:
            break
        if len(going) < len(live):
            sampler.keep(going)
            live = [live[place] for place in going]
        logits = decoder.step({row.choice: row.tokens[-1] for row in live})
    completion.seconds = time.perf_counter() - started
    note_cache(stats, decoder.cache)
    # logits come of all tokens
    note_pass(stats, loaded, completion.prompt_tokens, completion.prompt_tokens)
    stats.prefill_s += completion.first_token_s
    stats.prefill_tokens += completion.prompt_tokens
    stats.decode_s += completion.seconds - completion.first_token_s
    stats.decode_tokens += sum(len(row.tokens) - 1 for row in rows)
    completion.branches = [stopping.answer(row, reasons[row.choice]) for row in rows]
    worst = (FinishReason.error, FinishReason.length, FinishReason.context, FinishReason.stop)
    completion.answer = Answer("", [], next(reason for reason in worst if reason in reasons.values()))
    return completion
