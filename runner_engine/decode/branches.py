"""Parallel branches: several continuations of one prompt that are decoded together with one KV cache.

They need 2D RoPE. Every token has a branch (0 = main, 1 … k) and a time. All branches
start where main ends, at the same time. A token attends to all tokens of earlier times,
in its own and in the other branches. The cache holds the prompts column by column: main
`a b c`, branches `d e` and `f g h` make `a b c d f e g h`. Then each forward pass adds
one token for each live branch, at the branch's own next time. Where the prompts differ in
length, a longer branch does not attend to tokens that a shorter one adds later at an
earlier time, because they were not in the cache yet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache

from runner_base import Answer, ConfigError, FinishReason, signals
from runner_engine.decode.sequences import NO_NUMBERS, NO_TOKEN, TokenSequence
from runner_engine.decode.tokens import Stopping, create_sampler
from runner_engine.memory import record_activation_peak, record_cache_peak
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.rope import rope_2d
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import Completion, EngineStats

TimedToken = tuple[int, int, int]  # of a token in the cache: its time, its branch, and the token


def sort_branch_tokens_by_time(
    prompt_tokens: Sequence[int], branches: Sequence[Sequence[int]]
) -> list[TimedToken]:
    """Sort the tokens of a prompt and its branches by time step, then by branch number.

    At equal times, the main prompt comes first.
    """
    placed = [(time, 0, token) for time, token in enumerate(prompt_tokens)]
    for number, branch in enumerate(branches, start=1):
        placed += [(time, number, token) for time, token in enumerate(branch, start=len(prompt_tokens))]
    return sorted(placed, key=lambda place: place[:2])


def build_branch_attention_mask(token_times: torch.Tensor, num_queries: int) -> torch.Tensor:
    """Return the attention mask [queries, N] for the last `num_queries` tokens.

    Token i attends to token j if t_j < t_i or i = j.
    """
    index = torch.arange(len(token_times), device=token_times.device)
    last = index[-num_queries:]
    return (token_times[None, :] < token_times[last, None]) | (index[None, :] == last[:, None])


def find_branch_support_error(model: Any) -> ConfigError | None:
    name = str(getattr(model.config.get_text_config(), "_attn_implementation", None))
    if name in ("sdpa", "eager"):
        return None
    return ConfigError(
        f"branches need an attention mask, which model.attention={name} does not support. Use sdpa or eager",
        code="unsupported",
    )


class BranchDecoder:
    """Decodes the parallel branches of a request with one shared KV cache.

    After one prefill, each step decodes one token per unfinished branch.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        # without the config: a sliding window would drop what branches may still see
        self.cache = DynamicCache()
        self.times: list[int] = []  # of every token in the cache
        self.clocks: dict[int, int] = {}  # branch -> time of its next token

    def prefill(self, main: Sequence[int], branches: Sequence[Sequence[int]]) -> torch.Tensor:
        """Prefill the main prompt and all branches in one forward pass.

        Returns the next-token logits [k, V], one per branch.
        """
        placed = sort_branch_tokens_by_time(main, branches)
        self.clocks = {number: len(main) + len(branch) for number, branch in enumerate(branches, start=1)}
        logits = self._run_forward_pass(placed)
        last = [len(main) - 1] * len(branches)  # a branch without tokens continues main
        for at, (_, number, _) in enumerate(placed):
            if number:
                last[number - 1] = at
        return logits[last]

    def step(self, tokens_by_branch: Mapping[int, int]) -> torch.Tensor:
        """Append one token to each given branch in one forward pass.

        Returns logits [n, V], one per branch, in the order of `tokens_by_branch`.
        """
        placed = [(self.clocks[number], number, token) for number, token in tokens_by_branch.items()]
        for number in tokens_by_branch:
            self.clocks[number] += 1
        return self._run_forward_pass(placed)

    def _run_forward_pass(self, new_tokens: Sequence[TimedToken]) -> torch.Tensor:
        """Append new tokens to the KV cache in one forward pass, and return their logits [T, V]."""
        device = self.model.get_input_embeddings().weight.device
        self.times += [time for time, _, _ in new_tokens]
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        longest = max(self.times) + 1
        if window is not None and longest > window:
            raise ConfigError(
                f"branches of {longest} tokens exceed the model's sliding window of {window} tokens. "
                "Use shorter prompts or fewer new tokens",
                code="too_large",
            )
        seen = build_branch_attention_mask(
            torch.tensor(self.times, device=device), num_queries=len(new_tokens)
        )
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=device)
        # added to the scores: what eager and sdpa both take
        mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
        times, branches, ids = torch.tensor(new_tokens, device=device).T[:, None]  # each [1, T]
        with (
            torch.inference_mode(),
            rope_2d.require_token_coordinates(self.model),
            rope_2d.set_token_coordinates(self.model, branches, times),
        ):
            output = self.model(
                input_ids=ids,
                attention_mask=mask[None, None],
                position_ids=times,  # layers without the patch rotate by time, too: a branch continues where main ends
                past_key_values=self.cache,
                use_cache=True,
            )
        logits: torch.Tensor = output.logits[0]
        return logits


def build_completion_without_decoding(
    sequences: Sequence[TokenSequence], finish_reason: FinishReason
) -> Completion:
    at = sequences[0].branch_at
    prompt_tokens = at + sum(len(row.prompt) - at for row in sequences)
    answer = Answer("", [], finish_reason)
    return replace(
        sequences[0].to_completion(finish_reason, 0.0), answer=answer, choice=0, prompt_tokens=prompt_tokens
    )


def decode_request_branches(
    loaded: LoadedModel, sequences: Sequence[TokenSequence], stats: EngineStats, stopping: Stopping
) -> Completion:
    """Decode the branches of a request as sequences that continue the same prompt.

    A sampled branch depends on the seed, the request's id, its branch number, and the tokens
    of other branches that it attends to.
    """
    completion = build_completion_without_decoding(sequences, FinishReason.error)
    if completion.error:
        return completion
    decoder, at = BranchDecoder(loaded.model), sequences[0].branch_at
    reasons: dict[int, FinishReason] = {}
    live, started = list(sequences), time.perf_counter()
    logits = decoder.prefill(sequences[0].prompt[:at], [row.prompt[at:] for row in sequences])
    # of a model on several devices, the last one holds the logits
    sampler = create_sampler(sequences, int(loaded.metrics["vocab_size"]), logits.device)
    while True:
        signals.raise_if_signal_waits()
        stopping.constrain_logits(logits, live)
        tokens = sampler.sample(logits).tolist()
        completion.first_token_s = completion.first_token_s or time.perf_counter() - started
        going = []
        for place, (row, token) in enumerate(zip(live, tokens, strict=True)):
            if token == NO_TOKEN:
                completion.error = render_engine_note(NO_NUMBERS)
                reasons[row.choice] = FinishReason.error
                continue
            row.tokens.append(token)
            reason = stopping.find_finish_reason(row)
            if reason is None:
                going.append(place)
            else:
                reasons[row.choice] = reason
        if not going:
            break
        if len(going) < len(live):
            sampler.keep_sequences_at_indices(going)
            live = [live[place] for place in going]
        logits = decoder.step({row.choice: row.tokens[-1] for row in live})
    completion.seconds = time.perf_counter() - started
    record_cache_peak(stats, decoder.cache)
    # logits come of all tokens
    record_activation_peak(stats, loaded, completion.prompt_tokens, completion.prompt_tokens)
    stats.prefill_s += completion.first_token_s
    stats.prefill_tokens += completion.prompt_tokens
    stats.decode_s += completion.seconds - completion.first_token_s
    stats.decode_tokens += sum(len(row.tokens) - 1 for row in sequences)
    completion.branches = [stopping.build_answer(row, reasons[row.choice]) for row in sequences]
    worst = (FinishReason.error, FinishReason.length, FinishReason.context, FinishReason.stop)
    completion.answer = Answer("", [], next(reason for reason in worst if reason in reasons.values()))
    return completion
