"""Parallel branches: one main stream, several continuations, decoded side by side over one shared KV cache.

What 2D RoPE is for. Every token has a branch (0 = main, 1 … k) and a time. Branches start where main ends, at the
same time, and a token sees what is earlier in time, in its own and in the other branches. The prompts lie in the
cache column by column: main `a b c`, branches `d e` and `f g h` make `a b c d f e g h`. From then on each forward
pass adds one token for each live branch, with the branch's own next time. Where the prompts differ in length, a
branch that is ahead cannot see what a shorter one says later at an earlier time: it was not in the cache yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from runner.core.errors import ConfigError
from runner.core.result import BranchText, FinishReason
from runner.engines.base import Completion, EngineStats
from runner.engines.rows import GREEDY, Row
from runner.engines.sampling import Sampler, sampler_of
from runner.engines.stopping import Stopping
from runner.models.load import Loaded
from runner.models.rope import rope_2d


@dataclass(frozen=True)
class Columns:
    """Tokens in the order in which they lie in the cache, each with its branch and time."""

    tokens: list[int]
    branches: list[int]
    times: list[int]


@dataclass
class Branch:
    """What a branch said, and why it ended."""

    token_ids: list[int]
    finish_reason: FinishReason = FinishReason.length


@dataclass
class Decoded:
    """All branches of one prompt, and the time that they took together."""

    branches: list[Branch]
    prefill_s: float
    seconds: float


Ended = Callable[[int, list[int]], FinishReason | None]  # branch (1 … k) and its tokens so far -> why it ends, or None


def columnar(main: Sequence[int], branches: Sequence[Sequence[int]]) -> Columns:
    """Lay main and branches out left-aligned: main first, then the tokens of each time, branch by branch."""
    placed = [(time, 0, token) for time, token in enumerate(main)]
    for number, branch in enumerate(branches, start=1):
        placed += [(time, number, token) for time, token in enumerate(branch, start=len(main))]
    placed.sort(key=lambda token: token[:2])
    return Columns([token for _, _, token in placed], [b for _, b, _ in placed], [t for t, _, _ in placed])


def may_attend(times: torch.Tensor, valid: torch.Tensor | None = None, queries: int | None = None) -> torch.Tensor:
    """Return [queries, N]: token i sees token j when j is valid and t_j < t_i or i = j; queries = the last ones."""
    count = times.shape[0]
    first = count - (count if queries is None else queries)
    index = torch.arange(count, device=times.device)
    seen = (times[None, :] < times[first:, None]) | (index[None, :] == index[first:, None])
    return seen if valid is None else seen & valid[None, :]


def why_not(model: Any) -> ConfigError | None:
    """Return the error that a request with branches is answered with; None where a model can serve it."""
    try:
        check(model)
    except ConfigError as error:
        return error
    return None


def check(model: Any) -> None:
    """Raise ConfigError unless a model tells one branch from another, and takes their mask."""
    rope_2d.require(model)
    implementation = str(getattr(model.config.get_text_config(), "_attn_implementation", None))
    if implementation not in ("sdpa", "eager"):
        raise ConfigError(
            f"model.attention={implementation} takes no mask of its own, which branches need: use sdpa or eager"
        )


class BranchDecoder:
    """The shared cache and its coordinates: prefill once, then one token a live branch for each step."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        check(model)
        self.settings = model.config.get_text_config()
        self.model = model
        self.cache = DynamicCache()  # without the config: a sliding window would drop what branches may still see
        self.times: list[int] = []  # of every token in the cache
        self.clocks: dict[int, int] = {}  # branch -> time of its next token
        self.passes = 0

    def prefill(self, main: Sequence[int], branches: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read main and the beginnings of all branches in one pass; return logits [k, V] for their next tokens."""
        if not main or not branches:
            raise ConfigError("branches need a main stream of one token or more, and at least one branch")
        if self.times:
            raise ConfigError("this decoder has its prompts already: take a new one")
        columns = columnar(main, branches)
        self.clocks = {number: len(main) + len(branch) for number, branch in enumerate(branches, start=1)}
        logits = self._forward(columns)
        last = [len(main) - 1] * len(branches)  # a branch that is empty so far goes on from main
        for place, number in enumerate(columns.branches):
            if number:
                last[number - 1] = place
        return logits[last]

    def step(self, tokens: Mapping[int, int]) -> torch.Tensor:
        """Add one token to each branch named (1 … k) in one pass; return their logits [live, V], in that order."""
        unknown = [number for number in tokens if number not in self.clocks]
        if unknown or not tokens:
            there = ", ".join(map(str, self.clocks)) or "none, prefill first"
            wrong = f"branches {unknown} do not exist" if unknown else "no branch is named"
            raise ConfigError(f"{wrong}: there are {there}")
        columns = Columns(list(tokens.values()), list(tokens), [self.clocks[number] for number in tokens])
        for number in tokens:
            self.clocks[number] += 1
        return self._forward(columns)

    def _forward(self, columns: Columns) -> torch.Tensor:
        """Return the logits [T, V] of new tokens after they have joined the cache."""
        device = self.model.get_input_embeddings().weight.device
        self.times += columns.times
        self._check_room()
        seen = may_attend(torch.tensor(self.times, device=device), queries=len(columns.times))
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=device)
        mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)  # added to the scores: what eager and sdpa both take
        branches, times = (torch.tensor([row], device=device) for row in (columns.branches, columns.times))
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(rope_2d.in_branches(self.model))
            stack.enter_context(rope_2d.at(self.model, branches, times))
            output = self.model(
                input_ids=torch.tensor([columns.tokens], device=device),
                attention_mask=mask[None, None],
                position_ids=times,  # what is not patched turns with time, too: a branch reads on where main ends
                past_key_values=self.cache,
                use_cache=True,
            )
        self.passes += 1
        logits: torch.Tensor = output.logits[0]
        return logits

    def _check_room(self) -> None:
        window = getattr(self.settings, "sliding_window", None)
        longest = max(self.times) + 1
        if window is not None and longest > window:
            raise ConfigError(
                f"branches reach time {longest}, beyond this model's sliding window of {window} tokens, which the "
                "mask of branches does not cut: use shorter prompts or fewer new tokens"
            )


def decode(
    model: Any,
    main: Sequence[int],
    branches: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: frozenset[int] = frozenset(),
) -> list[Branch]:
    """Continue every branch greedily, all in the same passes; a branch ends at a stop token (kept) or the limit."""
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens={max_new_tokens}: must be 1 or more")

    def ended(_: int, tokens: list[int]) -> FinishReason | None:
        if tokens[-1] in stops:
            return FinishReason.stop
        return FinishReason.length if len(tokens) >= max_new_tokens else None

    sampler = Sampler(0, model.get_input_embeddings().weight.device)
    sampler.join([[]] * len(branches), [GREEDY] * len(branches), [None] * len(branches))
    return decode_with(BranchDecoder(model), main, branches, sampler, ended).branches


def decode_with(
    decoder: BranchDecoder,
    main: Sequence[int],
    branches: Sequence[Sequence[int]],
    sampler: Sampler,
    ended: Ended,
) -> Decoded:
    """Continue every branch as the sampler picks, all in the same passes, each until `ended` says why it ends."""
    started = time.perf_counter()
    done = {number: Branch([]) for number in range(1, len(branches) + 1)}
    live, logits = list(done), decoder.prefill(main, branches)
    prefill_s = 0.0
    while True:
        chosen: dict[int, int] = dict(zip(live, sampler.pick(logits).tolist(), strict=True))
        prefill_s = prefill_s or time.perf_counter() - started
        going = []
        for number, token in chosen.items():
            done[number].token_ids.append(token)
            reason = ended(number, done[number].token_ids)
            if reason is None:
                going.append(number)
            else:
                done[number].finish_reason = reason
        if not going:
            return Decoded(list(done.values()), prefill_s, time.perf_counter() - started)
        if len(going) < len(live):
            sampler.keep(torch.tensor([live.index(number) for number in going], device=logits.device))
        live = going
        logits = decoder.step({number: chosen[number] for number in live})


def unanswered(rows: Sequence[Row], reason: FinishReason) -> Completion:
    """Return the completion of a request with branches that were not decoded."""
    request, at = rows[0].request, rows[0].branch_at
    return Completion(
        id=request.id,
        text="",
        token_ids=[],
        finish_reason=reason,
        prompt_sha256=rows[0].sha256,
        prompt_tokens=at + sum(len(row.prompt) - at for row in rows),
        first_token_s=0.0,
        seconds=0.0,
        error=rows[0].error,
    )


def complete(loaded: Loaded, rows: Sequence[Row], stats: EngineStats, stopping: Stopping) -> Completion:
    """Answer a request with branches, a row for each: the prompt is main, framed as ever, and each text goes on.

    A sampled branch depends on seed, id of the request and its own number; on the other branches only through what it
    sees of them.
    """
    decoder = BranchDecoder(loaded.model)
    request, at = rows[0].request, rows[0].branch_at
    main, begun = rows[0].prompt[:at], [row.prompt[at:] for row in rows]
    completion = unanswered(rows, FinishReason.error)
    if completion.error:
        return completion
    sampler = sampler_of(rows, int(loaded.metrics["vocab_size"]), loaded.device)

    def ended(number: int, tokens: list[int]) -> FinishReason | None:
        return stopping.reason(tokens, rows[number - 1].limit, request)

    done = decode_with(decoder, main, begun, sampler, ended)
    stats.prefill_s += done.prefill_s
    stats.prefill_tokens += completion.prompt_tokens
    stats.decode_s += done.seconds - done.prefill_s
    stats.decode_tokens += sum(len(branch.token_ids) - 1 for branch in done.branches)
    completion.branches = [
        BranchText(stopping.said(one.token_ids, request), one.token_ids, one.finish_reason) for one in done.branches
    ]
    cut_off = any(one.finish_reason is FinishReason.length for one in done.branches)
    completion.finish_reason = FinishReason.length if cut_off else FinishReason.stop
    completion.first_token_s, completion.seconds = done.prefill_s, done.seconds
    return completion
