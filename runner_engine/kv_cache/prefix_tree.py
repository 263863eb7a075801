"""Radix tree of the token prefixes that prompts share.

Also caches earlier conversations.

A prefix is computed when the first sequence needs it, and freed with the last sequence
that uses it. A conversation's keys and values are stored when a turn ends, so that the
next turn computes only what is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import inf
from typing import NamedTuple

import torch

from runner_engine.checkpoints.prompt_cache_size import CONVERSATION_SHARE
from runner_engine.kv_cache.first_tokens import copy_tensors
from runner_engine.kv_cache.kv_store import KvCacheSpec, KvStore
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.shared_kv import SharedKv
from runner_engine.kv_cache.slots import SlotStore

MIN_TOKENS = 32  # separate attention to a shorter prefix costs more than it saves
MIN_SAVED = 128  # tokens that a prefix must save
SCORED = 2  # prompts that are only scored attend to a prefix in a single pass: one of half the size pays for itself
DEEPEST = 6
MAX_CONVERSATIONS = 8  # the oldest one is dropped for a new one


def find_shared_prefixes(
    prompts: Sequence[Sequence[int]],
    parent: Prefix | None = None,
    has_scored_continuations: bool = False,
    adapter: str | None = None,
) -> list[Prefix | None]:
    """Return the deepest shared prefix of each prompt.

    A prefix never contains the whole prompt.

    All prompts begin with the parent, if given, and are longer. All are computed with the
    same adapter.
    """
    least = SCORED if has_scored_continuations else 1
    order = sorted(range(len(prompts)), key=lambda at: tuple(prompts[at]))
    deepest: list[Prefix | None] = [parent] * len(prompts)

    def group_prompts_by_prefix(
        prompt_indices: list[int], start: int, parent: Prefix | None, depth: int
    ) -> None:
        if len(prompt_indices) < 2 or depth == DEEPEST:
            return
        # rows are sorted: all have in common what the first and the last have; a prompt's last
        # token is its own
        end = min(
            count_common_prefix_tokens(prompts[prompt_indices[0]], prompts[prompt_indices[-1]], start),
            min(len(prompts[row]) for row in prompt_indices) - 1,
        )
        own = end - start
        if own * least >= MIN_TOKENS and own * (len(prompt_indices) - 1) * least >= MIN_SAVED:
            parent = Prefix(list(prompts[prompt_indices[0]][start:end]), parent, adapter)
            for row in prompt_indices:
                deepest[row] = parent
            start, depth = end, depth + 1
        # a prompt that ends here shares no more
        longer = [row for row in prompt_indices if len(prompts[row]) > end + 1]
        if (
            len(longer) < len(prompt_indices)
            or prompts[prompt_indices[0]][end] != prompts[prompt_indices[-1]][end]
        ):
            for _, group in groupby(longer, key=lambda row: prompts[row][end]):
                group_prompts_by_prefix(list(group), start, parent, depth)

    group_prompts_by_prefix(order, parent.length if parent else 0, parent, len(parent.path) if parent else 0)
    return deepest


def count_common_prefix_tokens(left: Sequence[int], right: Sequence[int], start: int) -> int:
    """Return the number of leading tokens that two prompts share.

    Tokens before `start` are known to be equal.
    """
    pairs = enumerate(zip(left[start:], right[start:], strict=False), start)
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))


class ConversationCache:
    """Cached keys and values of the most recent conversations.

    In models with recurrent states, a conversation helps only prompts that continue all of
    it. So shared prefixes that were computed are stored too, and the next prompt finds them.
    """

    def __init__(self, max_nbytes: float = inf) -> None:
        self.max_nbytes = max_nbytes  # the cache never takes more memory
        self._conversations: list[Prefix] = []  # the latest at the end

    @property
    def tokens(self) -> int:
        """Memory that the conversations take, in KV cache tokens, including recurrent states."""
        return sum(len(one.tokens) + one.kv.store.heads.state_tokens for one in self._conversations)

    @property
    def nbytes(self) -> int:
        return (
            self.tokens * self._conversations[0].kv.store.heads.bytes_per_token if self._conversations else 0
        )

    def cache_sequence_kv(
        self, tokens: list[int], sequence_kv: SequenceKv, kv_store: KvStore, slot: int, budget_tokens: int
    ) -> None:
        """Cache a sequence's keys and values.

        The last token is excluded, because the model has not processed it.
        """
        kv = SharedKv.allocate(
            kv_store.heads, sequence_kv.num_shared_tokens + sequence_kv.places, kv_store.kernels
        )
        for layer in range(kv_store.heads.layers):
            parts = [
                *(prefix.kv.read_stored_kv(layer) for prefix in sequence_kv.path),
                kv_store.read_stored_kv(layer, slot, sequence_kv.places),
            ]
            keys, values = (torch.cat(some, dim=1) for some in zip(*parts, strict=True))
            kv.store.write_stored(layer, keys, values)
        first = (
            sequence_kv.path[0].kv.store.get_first_token_tensors(0)
            if sequence_kv.path
            else kv_store.get_first_token_tensors(slot)
        )
        copy_tensors(first, kv.store.get_first_token_tensors(0))
        if kv.store.states is not None and kv_store.states is not None:
            kv.store.states.copy_states_from(0, kv_store.states, slot)
        least = max(
            (prefix.length if prefix.freed else prefix.least for prefix in sequence_kv.path), default=0
        )
        self.add_conversation(tokens[: kv.length], kv, budget_tokens, least, sequence_kv.adapter)

    def add_conversation(
        self,
        tokens: list[int],
        kv: SharedKv,
        budget_tokens: int,
        min_tokens: int = 0,
        adapter: str | None = None,
    ) -> None:
        """Cache a conversation, and remove cached conversations that it makes redundant.

        min_tokens, adapter: see Prefix.
        """
        has_states = kv.store.states is not None
        others = [
            conversation
            for conversation in self._conversations
            if conversation.adapter != adapter
            or conversation.tokens != (tokens if has_states else tokens[: len(conversation.tokens)])
        ]
        heads, of_state = kv.store.heads, kv.store.heads.state_tokens
        most = min(budget_tokens * CONVERSATION_SHARE, self.max_nbytes / heads.bytes_per_token)
        room = int(most) - len(tokens) - of_state
        if room < 0:
            return
        while others and (
            len(others) >= MAX_CONVERSATIONS or sum(len(other.tokens) + of_state for other in others) > room
        ):
            others.pop(0)
        self._conversations = [*others, Prefix(tokens, adapter=adapter, kv=kv, least=min_tokens)]

    def clear(self) -> None:
        """Free all cached conversations, because active sequences need the memory."""
        self._conversations = []

    def find_cached_prefix(self, prompt: Sequence[int], adapter: str | None = None) -> Prefix | None:
        usable = [
            _count_reusable_prompt_tokens(conversation, prompt) if conversation.adapter == adapter else 0
            for conversation in self._conversations
        ]
        length = max(usable, default=0)
        if length < MIN_TOKENS:
            return None
        best = self._conversations[usable.index(length)]
        if best.kv.store.states is not None:  # it is of use to several prompts, so it stays longer
            self._conversations.remove(best)
            self._conversations.append(best)
        kv = best.kv.view_first(length)
        return Prefix(best.tokens[:length], adapter=adapter, kv=kv, least=best.least)

    def list_recurrent_conversations(self) -> list[list[int]]:
        """Return the token ids of cached conversations with recurrent states.

        Other prompts can reuse these conversations only from the beginning.
        """
        return [one.tokens for one in self._conversations if one.kv.store.states is not None]


def _count_reusable_prompt_tokens(conversation: Prefix, prompt: Sequence[int]) -> int:
    """Return the number of leading prompt tokens that a cached conversation covers.

    The prompt's last token is excluded.

    A recurrent state covers all tokens of a conversation. Before sliding windows, some keys
    of a shorter beginning are missing.
    """
    length = min(count_common_prefix_tokens(conversation.tokens, prompt, 0), len(prompt) - 1)
    if conversation.kv.store.states is not None and length < len(conversation.tokens):
        return 0
    return 0 if length < conversation.least else length


class NewPrompt(NamedTuple):
    tokens: list[int]
    kv: SequenceKv
    is_scored: bool


class PrefixTree:
    """Tree of the prefixes that the scheduler's sequences share. Tracks their memory in tokens.

    max_attended: how many prefixes a decoding step can read for all sequences. None means any
    number.
    """

    def __init__(
        self, kv_spec: KvCacheSpec, max_attended: int | None, conversations: ConversationCache
    ) -> None:
        self.heads, self.most_attended, self.conversations = kv_spec, max_attended, conversations
        self.tokens = 0  # whose keys and values are stored
        self.budget = 0  # how many may be
        # by parent, adapter and first token
        self._alive: dict[tuple[Prefix | None, str | None, int], list[Prefix]] = {}

    def assign_shared_prefixes(
        self, prompts: Sequence[NewPrompt], announced_prompts: Sequence[list[int]] = ()
    ) -> list[tuple[int, ...]]:
        """Assign shared prefixes to new prompts.

        Returns sort keys that place prompts with common prefixes side by side.

        A prefix may be shared with announced prompts. Prompts of different adapters share none,
        because their keys and values differ.
        """
        groups: dict[tuple[Prefix | None, str | None], list[NewPrompt]] = {}
        for prompt in prompts:
            adapter = prompt.kv.adapter
            prompt.kv.prefix = self.conversations.find_cached_prefix(prompt.tokens, adapter)
            if prompt.kv.prefix is None:
                parent = self._find_deepest_prefix(prompt.tokens, adapter)
                groups.setdefault((parent, adapter), []).append(prompt)
        for (parent, adapter), group in groups.items():
            others = (
                [*announced_prompts, *self.conversations.list_recurrent_conversations()]
                if parent is None
                else []
            )
            are_scored = all(prompt.is_scored for prompt in group)
            texts = [*(prompt.tokens for prompt in group), *others]
            deepest = find_shared_prefixes(texts, parent, are_scored, adapter)
            for prompt, prefix in zip(group, deepest, strict=False):
                prompt.kv.prefix = prefix
        if self.most_attended is not None and not self.heads.uses_pages:
            self._mark_prefixes_for_copying([prompt.kv for prompt in prompts], self.most_attended)
        number_of: dict[int, int] = {}
        for prompt in prompts:
            self._increase_prefix_use_counts(prompt.kv)
        return [
            tuple(number_of.setdefault(id(prefix), len(number_of)) for prefix in prompt.kv.needed_prefixes)
            for prompt in prompts
        ]

    def _increase_prefix_use_counts(self, sequence_kv: SequenceKv) -> None:
        """Increase the user count of each shared prefix of a sequence."""
        page = self.heads.page if self.heads.uses_pages else 0
        sequence_kv.rest = sequence_kv.num_shared_tokens % page if page else 0
        for prefix in sequence_kv.needed_prefixes:
            if not prefix.users:
                self._alive.setdefault(_build_lookup_key(prefix), []).append(prefix)
                prefix.in_pages = prefix.count_pages(page) * page if page else 0
                prefix.of_state = self.heads.state_tokens
                self.tokens += prefix.resident_tokens  # of a conversation
            prefix.users += 1

    def count_prefilled(self, prefix: Prefix, num_tokens: int) -> None:
        self.tokens += num_tokens + (prefix.stored_size - len(prefix.tokens) if prefix.kv is not None else 0)

    def release(self, sequence_kv: SequenceKv, is_reusable: bool = False) -> None:
        """Free the prefixes that only this sequence uses.

        is_reusable: later prompts may share the prefixes.
        """
        for prefix in sequence_kv.needed_prefixes:
            prefix.users -= 1
            if prefix.users:
                continue
            key = _build_lookup_key(prefix)
            self._alive[key].remove(prefix)
            if not self._alive[key]:
                del self._alive[key]
            self.tokens -= prefix.resident_tokens
            if is_reusable and self.heads.states and prefix.parent is None and prefix.kv is not None:
                least = prefix.length if prefix.freed else prefix.least
                self.conversations.add_conversation(
                    prefix.tokens, prefix.kv, self.budget, least, prefix.adapter
                )
            prefix.free_kv()

    @property
    def num_root_prefixes(self) -> int:
        """Number of prefixes without a parent."""
        return sum(len(prefixes) for (parent, *_), prefixes in self._alive.items() if parent is None)

    def free_all(self) -> None:
        """Free the keys and values of all prefixes. They are recomputed when needed."""
        for prefixes in self._alive.values():
            for prefix in prefixes:
                prefix.free_kv()
        self.tokens = 0

    def _mark_prefixes_for_copying(self, sequences: Sequence[SequenceKv], max_attended_prefixes: int) -> None:
        """Mark rarely used prefixes for copying.

        Needed if there are more prefixes than a decoding step can attend to.
        """
        users = Counter(prefix for row in sequences for prefix in row.path)
        # parents first
        new = sorted((prefix for prefix in users if not prefix.users), key=lambda prefix: prefix.start)
        attended = sum(not prefix.is_copied for prefixes in self._alive.values() for prefix in prefixes)
        spare, kept = max_attended_prefixes - attended, new
        if len(new) > spare:
            # so are their parents
            often = [prefix for prefix in new if users[prefix] * max_attended_prefixes >= len(sequences)]
            kept = often[: max(spare, 0)]
        for prefix in new:
            prefix.is_copied = prefix not in kept or (prefix.parent is not None and prefix.parent.is_copied)
        for row in sequences:
            if row.prefix is not None and row.prefix.attended_prefix is not row.prefix:
                row.source, row.prefix = row.prefix, row.prefix.attended_prefix

    def set_copied_token_count(self, sequence_kv: SequenceKv) -> None:
        """Set the number of tokens that a sequence copies from a prefix.

        Skipped if another cache provides more.
        """
        length = sequence_kv.source.length - sequence_kv.num_shared_tokens if sequence_kv.source else 0
        if length > sequence_kv.copied:
            sequence_kv.blocks, sequence_kv.copied = [], length

    def copy_prefixes(self, admitted: Sequence[tuple[int, SequenceKv]], kv_store: KvStore) -> None:
        """Copy prefixes into the slots of admitted sequences. Adjacent slots are filled in one copy."""
        if isinstance(kv_store, PagedSlots):
            for _, run in groupby(enumerate(admitted), key=lambda at: (at[1][1].prefix, at[1][0] - at[0])):
                slots = [slot_and_kv for _, slot_and_kv in run]
                kv_store.initialize_kv_slots_from_prefix(slots[0][0], len(slots), slots[0][1].prefix)
            return
        wanted = [
            (slot, row_kv) for slot, row_kv in admitted if row_kv.source is not None and not row_kv.blocks
        ]
        for _, run in groupby(
            enumerate(wanted), key=lambda at: (at[1][1].source, at[1][1].prefix, at[1][0] - at[0])
        ):
            slots = [slot_and_kv for _, slot_and_kv in run]
            (first, row_kv), (last, _) = slots[0], slots[-1]
            assert isinstance(kv_store, SlotStore)
            for prefix in row_kv.needed_prefixes[len(row_kv.path) :]:
                at = prefix.start - row_kv.num_shared_tokens
                for layer in range(kv_store.heads.layers):
                    stored = prefix.kv.read_stored_kv(layer)
                    for slot_tensor, copied in zip(
                        (kv_store.keys[layer], kv_store.values[layer]), stored, strict=True
                    ):
                        slot_tensor[first : last + 1, :, at : at + copied.shape[1]] = copied

    def _find_deepest_prefix(self, prompt: Sequence[int], adapter: str | None) -> Prefix | None:
        """Return the deepest known prefix of a prompt, for the same adapter.

        The prompt's last token is excluded.
        """
        deepest: Prefix | None = None
        start = 0
        while start < len(prompt) - 1:
            for one in self._alive.get((deepest, adapter, prompt[start]), []):
                end = start + len(one.tokens)
                if end < len(prompt) and list(prompt[start:end]) == one.tokens:
                    deepest, start = one, end
                    break
            else:
                break
        return deepest


def _build_lookup_key(prefix: Prefix) -> tuple[Prefix | None, str | None, int]:
    return prefix.parent, prefix.adapter, prefix.tokens[0]
