"""What was computed for earlier prompts, kept in blocks of places for later ones that begin alike.

A server is asked the same again: the same question, the same instructions, the next turn of a conversation. A block
holds the keys and values of 16 tokens, and is known by these tokens and by the block before it. A prompt's last block
may be shorter, for who asks exactly the same. A row that enters gets copies into its own slot, so that attention reads
it as any other row. The blocks that were used longest ago make room.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import torch

from runner.core.machine import MIB
from runner.engines.local.kernels.native import LANES
from runner.engines.local.kv_cache import OwnKv
from runner.engines.local.slots import Slots

if TYPE_CHECKING:
    from runner.engines.rows import Row

SHARE_OF_BUDGET = 0.125  # of the tokens that the scheduler may hold
MOST_MIB = 256  # whatever memory there is: a server's memory should stay as it is

Parent = int | bytes  # the number of the block before, or what tells the prefix that the row stands on from others
Key = tuple[Parent, tuple[int, ...]]


@dataclass
class _Block:
    """A place in the store, under a number that no other block ever has."""

    at: int
    number: int
    keys: list[Key] = field(default_factory=list)


class PromptCache:
    """Blocks of keys and values of prompts and answers, by their tokens."""

    def __init__(self) -> None:
        self._store: Slots | None = None  # a slot for each block
        self._blocks: OrderedDict[int, _Block] = OrderedDict()  # by number, the one used last at the end
        self._known: dict[Key, _Block] = {}
        self._numbers = count()

    @property
    def tokens(self) -> int:
        """Places that it holds."""
        return len(self._blocks) * LANES

    def forget(self) -> None:
        """Let go of all: rows need the memory."""
        self._store = None
        self._blocks.clear()
        self._known.clear()

    def find(self, row: Row) -> None:
        """Note in a row which blocks hold the beginning of what it has pending; that holds until the next `keep`.

        The last token always remains to be computed.
        """
        row.blocks, row.copied = [], 0
        if not row.request.recurring or row.given is not None:
            return
        tokens = row.pending
        end, start = len(tokens) - 1, 0
        parent: Parent = _digest(row.prompt[: row.shared])
        found: list[_Block] = []
        while start < end:
            block = self._known.get((parent, tuple(tokens[start : min(start + LANES, end)])))
            if block is None:
                break
            found.append(block)
            start, parent = min(start + LANES, end), block.number
        self._touch(found)
        row.blocks, row.copied = [block.at for block in found], start

    def copy(self, row: Row, own: OwnKv, slot: int) -> None:
        """Put what was found for a row into the first places of its slot."""
        if row.blocks and self._store is not None:
            chosen = torch.tensor(row.blocks, device=own.heads.device)
            for mine, theirs in self._pairs(own, slot):
                theirs[:, : len(row.blocks)] = mine[chosen].transpose(0, 1)

    def keep(self, row: Row, own: OwnKv, slot: int, budget_tokens: int) -> None:
        """Keep what the slot of a row holds: of its prompt, and of its answer in whole blocks."""
        if not row.request.recurring or row.error is not None:
            return
        tokens = (row.prompt + row.tokens)[row.shared : row.shared + row.places]
        if self._store is None:
            slots = int(min(budget_tokens * SHARE_OF_BUDGET, MOST_MIB * MIB / own.heads.bytes_per_token)) // LANES
            if not slots:
                return
            self._store = Slots(own.heads, slots, LANES)
        asked = len(row.prompt) - row.shared - 1  # tokens are looked for when the same is asked again
        wanted = max(len(tokens) // LANES, -(-asked // LANES))
        parent: Parent = _digest(row.prompt[: row.shared])
        used: list[_Block] = []
        new: list[tuple[int, int]] = []  # block of the slot, and of the store
        for at in range(min(wanted, self._store.slots)):
            start, end = at * LANES, (at + 1) * LANES
            keys: list[Key] = [(parent, tuple(tokens[start:end]))] if end <= len(tokens) else []
            if start < asked < end:  # where the prompt ends, whatever came behind it
                keys.append((parent, tuple(tokens[start:asked])))
            block = self._known.get(keys[0])
            if block is None:
                block = self._new_block()
                new.append((at, block.at))
            for key in keys:
                if key not in self._known:
                    self._known[key] = block
                    block.keys.append(key)
            used.append(block)
            self._touch(used[-1:])
            parent = block.number
        self._touch(used)
        if new:
            ours, stored = (torch.tensor(some, device=own.heads.device) for some in zip(*new, strict=True))
            for mine, theirs in self._pairs(own, slot):
                mine[stored] = theirs[:, ours].transpose(0, 1)

    def _pairs(self, own: OwnKv, slot: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Go through all keys and values: the store's [block, KVH, LANES, D], and a slot's [KVH, block, LANES, D]."""
        assert self._store is not None
        for mine, theirs in zip((*self._store.keys, *self._store.values), own.tensors(slot), strict=True):
            yield mine, theirs.view(own.heads.kv_heads, -1, LANES, own.heads.dim)

    def _new_block(self) -> _Block:
        """Return a block that nobody uses; the one that was used longest ago makes room."""
        assert self._store is not None
        at = len(self._blocks)
        if at == self._store.slots:
            _, oldest = self._blocks.popitem(last=False)
            for key in oldest.keys:
                del self._known[key]
            at = oldest.at
        block = _Block(at, next(self._numbers))
        self._blocks[block.number] = block
        return block

    def _touch(self, blocks: Sequence[_Block]) -> None:
        """Note that blocks are used: a block stays longer than those behind it, which are not found without it."""
        for block in reversed(blocks):
            self._blocks.move_to_end(block.number)


def _digest(tokens: Sequence[int]) -> bytes:
    """Return what tells a prefix from others; its tokens, kept anew for each prompt behind it, would be far more."""
    return hashlib.sha256(array("q", tokens)).digest()
