"""Keys and values of finished conversations, so that the next turn computes only what is new."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from runner.engines.local.kv_cache import OwnKv, SharedKv
from runner.engines.local.prefix_tree import LEAST_TOKENS, Prefix, common
from runner.engines.rows import Row

MOST_CONVERSATIONS = 8  # the one that was longest ago makes room
SHARE_OF_BUDGET = 0.25  # of the tokens that the scheduler may hold


class ConversationCache:
    """The conversations that went on last."""

    def __init__(self) -> None:
        self._conversations: list[Prefix] = []  # the latest at the end

    def keep(self, row: Row, own: OwnKv, slot: int, budget_tokens: int) -> None:
        """Keep what was computed for a row; its last token has not been through the model."""
        kv = SharedKv.empty(own.heads, row.shared + row.places, own.kernels)
        for layer in range(own.heads.layers):
            parts = [*(prefix.kv.read(layer) for prefix in row.path), own.read(layer, slot, row.places)]
            keys, values = (torch.cat(some, dim=1) for some in zip(*parts, strict=True))
            kv.write(layer, keys, values)
        self.add((row.prompt + row.tokens)[: kv.length], kv, budget_tokens)

    def add(self, tokens: list[int], kv: SharedKv, budget_tokens: int) -> None:
        """Keep a conversation; it takes the place of those that it goes on from."""
        others = [one for one in self._conversations if one.tokens != tokens[: len(one.tokens)]]
        room = int(budget_tokens * SHARE_OF_BUDGET) - len(tokens)
        if room < 0:
            return
        while others and (len(others) >= MOST_CONVERSATIONS or sum(len(one.tokens) for one in others) > room):
            others.pop(0)
        self._conversations = [*others, Prefix(tokens, kv=kv)]

    def find(self, prompt: Sequence[int]) -> Prefix | None:
        """Return what a prompt has in common with the conversation that it shares most with, ready to be used."""
        best, length = None, LEAST_TOKENS - 1
        for one in self._conversations:
            shared = min(common(one.tokens, prompt, 0), len(prompt) - 1)  # the last token is always computed
            if shared > length:
                best, length = one, shared
        if best is None:
            return None
        return Prefix(best.tokens[:length], kv=best.kv.beginning(length))

    @property
    def tokens(self) -> int:
        """How many tokens are kept."""
        return sum(len(one.tokens) for one in self._conversations)

    def clear(self) -> None:
        """Let go of all of them."""
        self._conversations = []
