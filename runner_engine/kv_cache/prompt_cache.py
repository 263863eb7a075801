"""Prompt cache: keys and values of earlier prompts, stored in blocks that later prompts can reuse.

A server often gets the same tokens again: the same question, the same instructions, the
next turn of a conversation. A block holds the keys and values of 16 tokens. Its key is
these tokens and the block before it. A prompt's last block may be shorter, for exactly
the same prompt. An admitted sequence gets copies in its own slot, so that attention needs
no special case. When the cache is full, the least recently used blocks are replaced.

The memory consists of chunks of many blocks (block_chunks.py). The cache grows and shrinks
by whole chunks.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache.block_chunks import BlockChunks, compute_block_nbytes
from runner_engine.kv_cache.kv_store import KvStore
from runner_engine.kv_cache.sequence_kv import SequenceKv

Parent = int | bytes  # the number of the block before, or the digest of the row's prefix
Key = tuple[Parent, bytes]
TOKEN_BYTES = array("i").itemsize  # of a token in a key


@dataclass(slots=True)
class _Block:
    """A block of the prompt cache. Its number is never used for another block."""

    at: int
    number: int
    keys: list[Key] = field(default_factory=list)


class PromptCache:
    """Cached blocks of keys and values of prompts and answers, found by token ids."""

    def __init__(self, max_nbytes: float = 0.0) -> None:
        self.max_nbytes = max_nbytes  # the cache never takes more memory
        self._chunks: BlockChunks | None = None
        # by number, the one used last at the end
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._known: dict[Key, _Block] = {}
        self._numbers = count()

    @property
    def tokens(self) -> int:
        return len(self._blocks) * LANES

    @property
    def resident_tokens(self) -> int:
        """Memory that the cache takes now, in KV cache tokens."""
        return 0 if self._chunks is None else self._chunks.resident_blocks * LANES

    @property
    def nbytes(self) -> int:
        """Memory that the cache takes now, in bytes, including the keys that find the blocks."""
        return 0 if self._chunks is None else self._chunks.resident_blocks * self._chunks.block_nbytes

    def clear(self) -> None:
        """Free all cached blocks, because active sequences need the memory."""
        self._chunks = None
        self._blocks.clear()
        self._known.clear()

    def shrink(self, max_tokens: int) -> bool:
        """Evict the least recently used blocks until the cache takes memory of at most `max_tokens` tokens.

        Returns whether memory was freed. Block places that `assign_cached_blocks` found are invalid
        afterwards.
        """
        chunks = self._chunks
        if chunks is None or chunks.allocated_blocks * LANES <= max_tokens:
            return False
        kept_chunks = max(max_tokens, 0) // (chunks.chunk_blocks * LANES)
        if not kept_chunks:
            self.clear()
            return True
        while len(self._blocks) > kept_chunks * chunks.chunk_blocks:
            self._evict_oldest_block()
        blocks = list(self._blocks.values())
        new_places = chunks.free_chunks_and_move_blocks(kept_chunks, [block.at for block in blocks])
        for block, at in zip(blocks, new_places, strict=True):
            block.at = at
        return True

    def assign_cached_blocks(
        self, sequence_kv: SequenceKv, prompt: list[int], pending_tokens: list[int]
    ) -> None:
        """Find the cached blocks that cover the beginning of a sequence.

        Valid until blocks are stored again, or the cache shrinks.

        The last token always remains to be computed.
        """
        end, start = len(pending_tokens) - 1, 0
        parent: Parent = _prefix_digest(prompt[: sequence_kv.num_shared_tokens], sequence_kv.adapter)
        blocks: list[_Block] = []
        tokens = _to_bytes(pending_tokens) if self._known else b""
        while start < end and self._known:
            part = tokens[start * TOKEN_BYTES : min(start + LANES, end) * TOKEN_BYTES]
            block = self._known.get((parent, part))
            if block is None:
                break
            blocks.append(block)
            start, parent = min(start + LANES, end), block.number
        self._mark_used(blocks)
        sequence_kv.blocks, sequence_kv.copied = [block.at for block in blocks], start

    def copy_blocks(self, sequence_kv: SequenceKv, kv_store: KvStore, slot: int) -> None:
        if sequence_kv.blocks and self._chunks is not None:
            self._chunks.copy_to_slot(sequence_kv.blocks, kv_store, slot)
            if not sequence_kv.num_shared_tokens:
                self._chunks.copy_first_tokens_to_slot(sequence_kv.blocks[0], kv_store, slot)

    def cache_sequence_blocks(
        self,
        sequence_kv: SequenceKv,
        prompt: list[int],
        answer: list[int],
        kv_store: KvStore,
        slot: int,
        max_tokens: int,
    ) -> None:
        """Cache a sequence's keys and values for the whole prompt and for complete blocks of the answer.

        max_tokens: memory that active sequences leave to the cache, in tokens.
        """
        tokens = (prompt + answer)[
            sequence_kv.num_shared_tokens : sequence_kv.num_shared_tokens + sequence_kv.places
        ]
        self.shrink(max_tokens)
        if self._chunks is None:
            max_blocks = int(self.max_nbytes // compute_block_nbytes(kv_store.heads))
            if not max_blocks:
                return
            self._chunks = BlockChunks(kv_store.heads, max_blocks)
        max_blocks = self._chunks.limit_blocks(max_tokens // LANES)
        # so many tokens are looked up when the same prompt comes again
        prompt_end = len(prompt) - sequence_kv.num_shared_tokens - 1
        wanted = max(len(tokens) // LANES, -(-prompt_end // LANES))
        parent: Parent = _prefix_digest(prompt[: sequence_kv.num_shared_tokens], sequence_kv.adapter)
        used: list[_Block] = []
        new: list[tuple[int, int]] = []  # block of the slot, and of the cache
        as_bytes = _to_bytes(tokens)
        for at in range(min(wanted, max_blocks)):
            start, end = at * LANES, (at + 1) * LANES
            first, last = start * TOKEN_BYTES, end * TOKEN_BYTES
            keys: list[Key] = [(parent, as_bytes[first:last])] if end <= len(tokens) else []
            if start < prompt_end < end:  # the prompt ends in this block, whatever follows
                keys.append((parent, as_bytes[first : prompt_end * TOKEN_BYTES]))
            block = self._known.get(keys[0])
            if block is None:
                block = self._allocate_or_evict_block(self._chunks, max_blocks)
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
            self._chunks.copy_from_slot(new, kv_store, slot)
        if new and new[0][0] == 0 and not sequence_kv.num_shared_tokens:
            self._chunks.copy_first_tokens_from_slot(new[0][1], kv_store, slot)

    def _allocate_or_evict_block(self, chunks: BlockChunks, max_blocks: int) -> _Block:
        at = chunks.allocate_block(max_blocks)
        if at is None:
            self._evict_oldest_block()
            at = chunks.allocate_block(max_blocks)
            assert at is not None
        block = _Block(at, next(self._numbers))
        self._blocks[block.number] = block
        return block

    def _evict_oldest_block(self) -> None:
        assert self._chunks is not None
        _, oldest = self._blocks.popitem(last=False)
        for key in oldest.keys:
            del self._known[key]
        self._chunks.free_block(oldest.at)

    def _mark_used(self, blocks: Sequence[_Block]) -> None:
        """Mark blocks as recently used.

        Earlier blocks stay longest, because later blocks cannot be found without them.
        """
        for block in reversed(blocks):
            self._blocks.move_to_end(block.number)


def _to_bytes(tokens: Sequence[int]) -> bytes:
    return array("i", tokens).tobytes()


def _prefix_digest(tokens: Sequence[int], adapter: str | None) -> bytes:
    """Hash the tokens and the adapter of a prefix. The hash takes less memory than the tokens."""
    return hashlib.sha256(array("q", tokens).tobytes() + (adapter or "").encode()).digest()
