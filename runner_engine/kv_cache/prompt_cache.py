"""Keys and values of earlier prompts, kept in blocks of places for later prompts that begin with
the same tokens.

A server often gets the same tokens again: the same question, the same instructions, the next turn
of a conversation. A block holds the keys and values of 16 tokens; its key is these tokens and the
block before it. A prompt's last block may be shorter, for exactly the same prompt. A row that
enters gets copies in its own slot, so that attention reads it like any other row. When the cache is
full, the blocks that were used longest ago are replaced.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch

from runner_base import MIB
from runner_engine.kernels.shared_numbers import LANES
from runner_engine.kv_cache.first_tokens import copy_tensors
from runner_engine.kv_cache.kv_cache import OwnKv
from runner_engine.kv_cache.row_kv import RowKv
from runner_engine.kv_cache.slots import Slots

SHARE_OF_BUDGET = 0.125  # of the scheduler's tokens
MAX_MIB = 256  # even with much memory: a server's memory should not grow for long

Parent = int | bytes  # the number of the block before, or the digest of the row's prefix
Key = tuple[Parent, tuple[int, ...]]


@dataclass
class _Block:
    """A block of the store, with a number that no other block ever has."""

    at: int
    number: int
    keys: list[Key] = field(default_factory=list)


class PromptCache:
    """Blocks of keys and values of prompts and answers, by their tokens."""

    def __init__(self) -> None:
        self._store: Slots | None = None  # a slot for each block
        # by number, the one used last at the end
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._known: dict[Key, _Block] = {}
        self._numbers = count()

    @property
    def tokens(self) -> int:
        """The places that it takes."""
        return len(self._blocks) * LANES

    def forget(self) -> None:
        """Free everything: rows need the memory."""
        self._store = None
        self._blocks.clear()
        self._known.clear()

    def find(self, row_kv: RowKv, prompt: list[int], pending: list[int]) -> None:
        """Note for a row which blocks hold the beginning of its pending tokens; valid until the
        next `keep`.

        The last token always remains to be computed.
        """
        end, start = len(pending) - 1, 0
        parent: Parent = _digest(prompt[: row_kv.shared], row_kv.adapter)
        blocks: list[_Block] = []
        while start < end:
            block = self._known.get((parent, tuple(pending[start : min(start + LANES, end)])))
            if block is None:
                break
            blocks.append(block)
            start, parent = min(start + LANES, end), block.number
        self._touch(blocks)
        row_kv.blocks, row_kv.copied = [block.at for block in blocks], start

    def copy(self, row_kv: RowKv, own: OwnKv, slot: int) -> None:
        """Copy the blocks that `find` noted into the first places of a row's slot."""
        if row_kv.blocks and self._store is not None:
            chosen = torch.tensor(row_kv.blocks, device=own.heads.device)
            for kept, of_slot in self._pairs(own, slot):
                of_slot[:, : len(row_kv.blocks)] = kept[chosen].transpose(0, 1)
            if not row_kv.shared:
                copy_tensors(self._store.first_tensors(row_kv.blocks[0]), own.first_tensors(slot))

    def keep(
        self, row_kv: RowKv, prompt: list[int], answer: list[int], own: OwnKv, slot: int, budget_tokens: int
    ) -> None:
        """Keep the keys and values of a row: of its whole prompt, and of its answer in whole
        blocks."""
        tokens = (prompt + answer)[row_kv.shared : row_kv.shared + row_kv.places]
        if self._store is None:
            # each block has room for both, though only those of first tokens need it
            token_bytes = own.heads.bytes_per_token + own.heads.first_plain_bytes // LANES
            slots = int(min(budget_tokens * SHARE_OF_BUDGET, MAX_MIB * MIB / token_bytes)) // LANES
            if not slots:
                return
            self._store = Slots(own.heads, slots, LANES)
        # so many tokens are looked up when the same prompt comes again
        prompt_end = len(prompt) - row_kv.shared - 1
        wanted = max(len(tokens) // LANES, -(-prompt_end // LANES))
        parent: Parent = _digest(prompt[: row_kv.shared], row_kv.adapter)
        used: list[_Block] = []
        new: list[tuple[int, int]] = []  # block of the slot, and of the store
        for at in range(min(wanted, self._store.slots)):
            start, end = at * LANES, (at + 1) * LANES
            keys: list[Key] = [(parent, tuple(tokens[start:end]))] if end <= len(tokens) else []
            if start < prompt_end < end:  # the prompt ends in this block, whatever follows
                keys.append((parent, tuple(tokens[start:prompt_end])))
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
            in_slot, in_store = (
                torch.tensor(blocks, device=own.heads.device) for blocks in zip(*new, strict=True)
            )
            for kept, of_slot in self._pairs(own, slot):
                kept[in_store] = of_slot[:, in_slot].transpose(0, 1)
        if new and new[0][0] == 0 and not row_kv.shared:
            copy_tensors(own.first_tensors(slot), self._store.first_tensors(new[0][1]))

    def _pairs(self, own: OwnKv, slot: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Go through all keys and values: the store's [block, KVH, LANES, W], and a slot's [KVH,
        block, LANES, W]."""
        assert self._store is not None
        for kept, of_slot in zip((*self._store.keys, *self._store.values), own.tensors(slot), strict=True):
            yield kept, of_slot.view(own.heads.kv_heads, -1, LANES, kept.shape[-1])

    def _new_block(self) -> _Block:
        """Return a free block; if there is none, the one that was used longest ago is replaced."""
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
        """Note that blocks are used: a block stays longer than those after it, which cannot be
        found without it."""
        for block in reversed(blocks):
            self._blocks.move_to_end(block.number)


def _digest(tokens: Sequence[int], adapter: str | None) -> bytes:
    """Return the digest of a prefix and its adapter; its tokens, in the keys of each prompt after
    it, would take far more memory."""
    return hashlib.sha256(array("q", tokens).tobytes() + (adapter or "").encode()).digest()
