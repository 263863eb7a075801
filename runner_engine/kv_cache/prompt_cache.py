"""Prompt cache: keys and values of earlier prompts, stored in blocks that later prompts can reuse.

A server often gets the same tokens again: the same question, the same instructions, the
next turn of a conversation. A block holds the keys and values of 16 tokens. Its key is
these tokens and the block before it. A prompt's last block may be shorter, for exactly
the same prompt. An admitted sequence gets copies in its own slot, so that attention needs
no special case. When the cache is full, the least recently used blocks are replaced.
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
from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache.first_tokens import copy_tensors
from runner_engine.kv_cache.kv_store import KvStore
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.slots import SlotStore

SHARE_OF_BUDGET = 0.125  # of the scheduler's tokens
MAX_MIB = 256  # even with much memory: a server's memory should not grow for long

Parent = int | bytes  # the number of the block before, or the digest of the row's prefix
Key = tuple[Parent, tuple[int, ...]]


@dataclass
class _Block:
    """A block of the prompt cache. Its number is never used for another block."""

    at: int
    number: int
    keys: list[Key] = field(default_factory=list)


class PromptCache:
    """Cached blocks of keys and values of prompts and answers, found by token ids."""

    def __init__(self) -> None:
        self._store: SlotStore | None = None  # a slot for each block
        # by number, the one used last at the end
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._known: dict[Key, _Block] = {}
        self._numbers = count()

    @property
    def tokens(self) -> int:
        return len(self._blocks) * LANES

    def clear(self) -> None:
        """Free all cached blocks, because active sequences need the memory."""
        self._store = None
        self._blocks.clear()
        self._known.clear()

    def assign_cached_blocks(
        self, sequence_kv: SequenceKv, prompt: list[int], pending_tokens: list[int]
    ) -> None:
        """Find the cached blocks that cover the beginning of a sequence.

        Valid until blocks are stored again.

        The last token always remains to be computed.
        """
        end, start = len(pending_tokens) - 1, 0
        parent: Parent = _prefix_digest(prompt[: sequence_kv.num_shared_tokens], sequence_kv.adapter)
        blocks: list[_Block] = []
        while start < end:
            block = self._known.get((parent, tuple(pending_tokens[start : min(start + LANES, end)])))
            if block is None:
                break
            blocks.append(block)
            start, parent = min(start + LANES, end), block.number
        self._mark_used(blocks)
        sequence_kv.blocks, sequence_kv.copied = [block.at for block in blocks], start

    def copy_blocks(self, sequence_kv: SequenceKv, kv_store: KvStore, slot: int) -> None:
        if sequence_kv.blocks and self._store is not None:
            chosen = torch.tensor(sequence_kv.blocks, device=kv_store.heads.device)
            for kept, of_slot in self._iter_cache_and_slot_blocks(kv_store, slot):
                of_slot[:, : len(sequence_kv.blocks)] = kept[chosen].transpose(0, 1)
            if not sequence_kv.num_shared_tokens:
                copy_tensors(
                    self._store.get_first_token_tensors(sequence_kv.blocks[0]),
                    kv_store.get_first_token_tensors(slot),
                )

    def cache_sequence_blocks(
        self,
        sequence_kv: SequenceKv,
        prompt: list[int],
        answer: list[int],
        kv_store: KvStore,
        slot: int,
        budget_tokens: int,
    ) -> None:
        """Cache a sequence's keys and values for the whole prompt and for complete blocks of the answer."""
        tokens = (prompt + answer)[
            sequence_kv.num_shared_tokens : sequence_kv.num_shared_tokens + sequence_kv.places
        ]
        if self._store is None:
            # each block has room for both, though only those of first tokens need it
            token_bytes = kv_store.heads.bytes_per_token + kv_store.heads.first_tokens_nbytes // LANES
            slots = int(min(budget_tokens * SHARE_OF_BUDGET, MAX_MIB * MIB / token_bytes)) // LANES
            if not slots:
                return
            self._store = SlotStore(kv_store.heads, slots, LANES)
        # so many tokens are looked up when the same prompt comes again
        prompt_end = len(prompt) - sequence_kv.num_shared_tokens - 1
        wanted = max(len(tokens) // LANES, -(-prompt_end // LANES))
        parent: Parent = _prefix_digest(prompt[: sequence_kv.num_shared_tokens], sequence_kv.adapter)
        used: list[_Block] = []
        new: list[tuple[int, int]] = []  # block of the slot, and of the store
        for at in range(min(wanted, self._store.slots)):
            start, end = at * LANES, (at + 1) * LANES
            keys: list[Key] = [(parent, tuple(tokens[start:end]))] if end <= len(tokens) else []
            if start < prompt_end < end:  # the prompt ends in this block, whatever follows
                keys.append((parent, tuple(tokens[start:prompt_end])))
            block = self._known.get(keys[0])
            if block is None:
                block = self._allocate_or_evict_block()
                new.append((at, block.at))
            for key in keys:
                if key not in self._known:
                    self._known[key] = block
                    block.keys.append(key)
            used.append(block)
            self._mark_used(used[-1:])
            parent = block.number
        self._mark_used(used)
        if new:
            in_slot, in_store = (
                torch.tensor(blocks, device=kv_store.heads.device) for blocks in zip(*new, strict=True)
            )
            for kept, of_slot in self._iter_cache_and_slot_blocks(kv_store, slot):
                kept[in_store] = of_slot[:, in_slot].transpose(0, 1)
        if new and new[0][0] == 0 and not sequence_kv.num_shared_tokens:
            copy_tensors(
                kv_store.get_first_token_tensors(slot), self._store.get_first_token_tensors(new[0][1])
            )

    def _iter_cache_and_slot_blocks(
        self, kv_store: KvStore, slot: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield pairs of tensors: the prompt cache's blocks, and the slot's tensor split into blocks.

        The shapes are [block, KVH, LANES, W] and [KVH, block, LANES, W].
        """
        assert self._store is not None
        for kept, of_slot in zip(
            (*self._store.keys, *self._store.values), kv_store.get_slot_tensors(slot), strict=True
        ):
            yield kept, of_slot.view(kv_store.heads.kv_heads, -1, LANES, kept.shape[-1])

    def _allocate_or_evict_block(self) -> _Block:
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

    def _mark_used(self, blocks: Sequence[_Block]) -> None:
        """Mark blocks as recently used.

        Earlier blocks stay longest, because later blocks cannot be found without them.
        """
        for block in reversed(blocks):
            self._blocks.move_to_end(block.number)


def _prefix_digest(tokens: Sequence[int], adapter: str | None) -> bytes:
    """Hash the tokens and the adapter of a prefix. The hash takes less memory than the tokens."""
    return hashlib.sha256(array("q", tokens).tobytes() + (adapter or "").encode()).digest()
