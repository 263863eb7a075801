"""Parallel branches: one main stream, several continuations, decoded side by side over one shared KV cache.

What 2D RoPE is for. Every token has a branch (0 = main, 1 … k) and a time. Branches start where main ends, at the
same time, and a token sees what is earlier in time, in its own and in the other branches. The prompts lie in the
cache column by column: main `a b c`, branches `d e` and `f g h` make `a b c d f e g h`. From then on each forward
pass adds one token for each live branch, with the branch's own next time. Where the prompts differ in length, a
branch that is ahead cannot see what a shorter one says later at an earlier time: it was not in the cache yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from runner.errors import ConfigError
from runner.model import rope_2d
from runner.result import FinishReason


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


class BranchDecoder:
    """The shared cache and its coordinates: prefill once, then one token a live branch for each step."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        rope_2d.require(model)
        self.settings = model.config.get_text_config()
        implementation = str(getattr(self.settings, "_attn_implementation", None))
        if implementation not in ("sdpa", "eager"):
            raise ConfigError(
                f"model.attention={implementation} takes no mask of its own, which branches need: use sdpa or eager"
            )
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
    decoder = BranchDecoder(model)
    done = {number: Branch([]) for number in range(1, len(branches) + 1)}
    live, logits = list(done), decoder.prefill(main, branches)
    while live:
        chosen: dict[int, int] = dict(zip(live, logits.argmax(dim=-1).tolist(), strict=True))
        for number, token in chosen.items():
            done[number].token_ids.append(token)
            if token in stops:
                done[number].finish_reason = FinishReason.stop
        live = [n for n in live if chosen[n] not in stops and len(done[n].token_ids) < max_new_tokens]
        if live:
            logits = decoder.step({number: chosen[number] for number in live})
    return list(done.values())
