"""Prefixes that prompts share with each other, in a small radix tree over token ids, and with earlier conversations.

A prefix is computed when the first row needs it, and freed with the last row that uses it. The keys and values of a
conversation are kept when a turn ends, so that the next turn computes only what is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from runner_engine.kv_cache.first_tokens import copy_tensors
from runner_engine.kv_cache.kv_cache import Heads, OwnKv
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.row_kv import RowKv
from runner_engine.kv_cache.shared_kv import SharedKv
from runner_engine.kv_cache.slots import Slots

MIN_TOKENS = 32  # separate attention to a shorter prefix costs more than it saves
MIN_SAVED = 128  # tokens that a prefix must save
SCORED = 2  # prompts that are only scored attend to a prefix in a single pass: one of half the size pays for itself
DEEPEST = 6
MAX_CONVERSATIONS = 8  # the oldest one is dropped for a new one
SHARE_OF_BUDGET = 0.25  # of the scheduler's tokens is for conversations


def share(
    prompts: Sequence[Sequence[int]],
    parent: Prefix | None = None,
    are_scored: bool = False,
    adapter: str | None = None,
) -> list[Prefix | None]:
    """Return for each prompt the deepest prefix that it shares; at least one token of each prompt
    stays its own.

    If there is a parent, all prompts begin with it and are longer. All are computed with the
    adapter.
    """
    least = SCORED if are_scored else 1
    order = sorted(range(len(prompts)), key=lambda at: tuple(prompts[at]))
    deepest: list[Prefix | None] = [parent] * len(prompts)

    def descend(rows: list[int], start: int, parent: Prefix | None, depth: int) -> None:
        if len(rows) < 2 or depth == DEEPEST:
            return
        # rows are sorted: all have in common what the first and the last have; a prompt's last
        # token is its own
        end = min(
            common(prompts[rows[0]], prompts[rows[-1]], start), min(len(prompts[row]) for row in rows) - 1
        )
        own = end - start
        if own * least >= MIN_TOKENS and own * (len(rows) - 1) * least >= MIN_SAVED:
            parent = Prefix(list(prompts[rows[0]][start:end]), parent, adapter)
            for row in rows:
                deepest[row] = parent
            start, depth = end, depth + 1
        # a prompt that ends here shares no more
        longer = [row for row in rows if len(prompts[row]) > end + 1]
        if len(longer) < len(rows) or prompts[rows[0]][end] != prompts[rows[-1]][end]:
            for _, group in groupby(longer, key=lambda row: prompts[row][end]):
                descend(list(group), start, parent, depth)

    descend(order, parent.length if parent else 0, parent, len(parent.path) if parent else 0)
    return deepest


def common(first: Sequence[int], last: Sequence[int], start: int) -> int:
    """Return how many first tokens of two prompts are equal, when those before `start` are known to
    be."""
    pairs = enumerate(zip(first[start:], last[start:], strict=False), start)
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(last)))


class ConversationCache:
    """The latest conversations.

    Where layers carry a state, a conversation is of use only to prompts that continue all of it. So
    beginnings that a prompt has in common with one are kept, too, when they have been computed as a
    prefix: the next prompt finds them.
    """

    def __init__(self) -> None:
        self._conversations: list[Prefix] = []  # the latest at the end

    def keep(self, tokens: list[int], row_kv: RowKv, own: OwnKv, slot: int, budget_tokens: int) -> None:
        """Keep the keys and values of a row: of all its tokens but the last, which the model has
        not read."""
        kv = SharedKv.empty(own.heads, row_kv.shared + row_kv.places, own.kernels)
        for layer in range(own.heads.layers):
            parts = [
                *(prefix.kv.stored(layer) for prefix in row_kv.path),
                own.stored(layer, slot, row_kv.places),
            ]
            keys, values = (torch.cat(some, dim=1) for some in zip(*parts, strict=True))
            kv.store.put_stored(layer, keys, values)
        first = row_kv.path[0].kv.store.first_tensors(0) if row_kv.path else own.first_tensors(slot)
        copy_tensors(first, kv.store.first_tensors(0))
        if kv.store.states is not None and own.states is not None:
            kv.store.states.put(0, own.states, slot)
        least = max((prefix.length if prefix.freed else prefix.least for prefix in row_kv.path), default=0)
        self.add(tokens[: kv.length], kv, budget_tokens, least, row_kv.adapter)

    def add(
        self, tokens: list[int], kv: SharedKv, budget_tokens: int, least: int = 0, adapter: str | None = None
    ) -> None:
        """Keep a conversation; it replaces those that are of no more use beside it. least, adapter:
        as of Prefix."""
        has_states = kv.store.states is not None
        others = [
            conversation
            for conversation in self._conversations
            if conversation.adapter != adapter
            or conversation.tokens != (tokens if has_states else tokens[: len(conversation.tokens)])
        ]
        of_state = kv.store.heads.state_tokens
        room = int(budget_tokens * SHARE_OF_BUDGET) - len(tokens) - of_state
        if room < 0:
            return
        while others and (
            len(others) >= MAX_CONVERSATIONS or sum(len(other.tokens) + of_state for other in others) > room
        ):
            others.pop(0)
        self._conversations = [*others, Prefix(tokens, adapter=adapter, kv=kv, least=least)]

    def forget(self) -> None:
        """Free everything: rows need the memory."""
        self._conversations = []

    def find(self, prompt: Sequence[int], adapter: str | None = None) -> Prefix | None:
        """Return the longest prefix that a prompt has in common with a conversation of its adapter,
        with its keys and values."""
        usable = [
            _usable(conversation, prompt) if conversation.adapter == adapter else 0
            for conversation in self._conversations
        ]
        length = max(usable, default=0)
        if length < MIN_TOKENS:
            return None
        best = self._conversations[usable.index(length)]
        if best.kv.store.states is not None:  # it is of use to several prompts, so it stays longer
            self._conversations.remove(best)
            self._conversations.append(best)
        kv = best.kv.beginning(length)
        return Prefix(best.tokens[:length], adapter=adapter, kv=kv, least=best.least)

    def beginnings(self) -> list[list[int]]:
        """Return the texts of which a beginning may be of use to others, though the whole is
        not."""
        return [one.tokens for one in self._conversations if one.kv.store.states is not None]


def _usable(conversation: Prefix, prompt: Sequence[int]) -> int:
    """Return how many first tokens of a prompt a conversation has, but for its last one, which is
    always computed.

    Its state stands for all of its tokens, and behind windows not all keys are there for a
    beginning of it.
    """
    length = min(common(conversation.tokens, prompt, 0), len(prompt) - 1)
    if conversation.kv.store.states is not None and length < len(conversation.tokens):
        return 0
    return 0 if length < conversation.least else length


class NewPrompt(NamedTuple):
    """A prompt whose prefixes are looked for."""

    tokens: list[int]
    kv: RowKv
    is_scored: bool


class Prefixes:
    """All prefixes of the scheduler's rows, and how many tokens they hold.

    most_attended: how many prefixes a decoding step reads for all of its rows; None: any number.
    """

    def __init__(self, heads: Heads, most_attended: int | None, conversations: ConversationCache) -> None:
        self.heads, self.most_attended, self.conversations = heads, most_attended, conversations
        self.tokens = 0  # whose keys and values are stored
        self.budget = 0  # how many may be
        # by parent, adapter and first token
        self._alive: dict[tuple[Prefix | None, str | None, int], list[Prefix]] = {}

    def arrange(
        self, prompts: Sequence[NewPrompt], mentioned: Sequence[list[int]] = ()
    ) -> list[tuple[int, ...]]:
        """Find the prefixes of new prompts; return the numbers of each one's, which sort prompts by
        common beginnings.

        A prefix may be shared with prompts that are only mentioned. Prompts of different adapters
        share none: their keys and values differ.
        """
        groups: dict[tuple[Prefix | None, str | None], list[NewPrompt]] = {}
        for prompt in prompts:
            adapter = prompt.kv.adapter
            prompt.kv.prefix = self.conversations.find(prompt.tokens, adapter)
            if prompt.kv.prefix is None:
                parent = self._deepest(prompt.tokens, adapter)
                groups.setdefault((parent, adapter), []).append(prompt)
        for (parent, adapter), group in groups.items():
            others = [*mentioned, *self.conversations.beginnings()] if parent is None else []
            are_scored = all(prompt.is_scored for prompt in group)
            texts = [*(prompt.tokens for prompt in group), *others]
            deepest = share(texts, parent, are_scored, adapter)
            for prompt, prefix in zip(group, deepest, strict=False):
                prompt.kv.prefix = prefix
        if self.most_attended is not None and not self.heads.in_pages:
            self._copy_some([prompt.kv for prompt in prompts], self.most_attended)
        number_of: dict[int, int] = {}
        for prompt in prompts:
            self._use(prompt.kv)
        return [
            tuple(number_of.setdefault(id(prefix), len(number_of)) for prefix in prompt.kv.needed)
            for prompt in prompts
        ]

    def _use(self, row_kv: RowKv) -> None:
        """Count a row among the users of its prefixes."""
        page = self.heads.page if self.heads.in_pages else 0
        row_kv.rest = row_kv.shared % page if page else 0
        for prefix in row_kv.needed:
            if not prefix.users:
                self._alive.setdefault(_key(prefix), []).append(prefix)
                prefix.in_pages = prefix.pages(page) * page if page else 0
                prefix.of_state = self.heads.state_tokens
                self.tokens += prefix.held  # of a conversation
            prefix.users += 1

    def note_read(self, prefix: Prefix, tokens: int) -> None:
        """Note that so many more tokens of a prefix were computed."""
        self.tokens += tokens + (prefix.size - len(prefix.tokens) if prefix.kv is not None else 0)

    def release(self, row_kv: RowKv, is_kept: bool = False) -> None:
        """Free the prefixes of a row that no other row uses. is_kept: later prompts may begin like
        this one."""
        for prefix in row_kv.needed:
            prefix.users -= 1
            if prefix.users:
                continue
            key = _key(prefix)
            self._alive[key].remove(prefix)
            if not self._alive[key]:
                del self._alive[key]
            self.tokens -= prefix.held
            if is_kept and self.heads.states and prefix.parent is None and prefix.kv is not None:
                least = prefix.length if prefix.freed else prefix.least
                self.conversations.add(prefix.tokens, prefix.kv, self.budget, least, prefix.adapter)
            prefix.forget()

    @property
    def beginnings(self) -> int:
        """How many prefixes begin a text."""
        return sum(len(prefixes) for (parent, *_), prefixes in self._alive.items() if parent is None)

    def forget(self) -> None:
        """Free all keys and values; they are computed again when needed."""
        for prefixes in self._alive.values():
            for prefix in prefixes:
                prefix.forget()
        self.tokens = 0

    def _copy_some(self, rows: Sequence[RowKv], most: int) -> None:
        """Where rows have more prefixes than a step attends to, let them get copies of those that
        few of them have."""
        users = Counter(prefix for row in rows for prefix in row.path)
        # parents first
        new = sorted((prefix for prefix in users if not prefix.users), key=lambda prefix: prefix.start)
        attended = sum(not prefix.is_copied for prefixes in self._alive.values() for prefix in prefixes)
        spare, kept = most - attended, new
        if len(new) > spare:
            # so are their parents
            often = [prefix for prefix in new if users[prefix] * most >= len(rows)]
            kept = often[: max(spare, 0)]
        for prefix in new:
            prefix.is_copied = prefix not in kept or (prefix.parent is not None and prefix.parent.is_copied)
        for row in rows:
            if row.prefix is not None and row.prefix.attended is not row.prefix:
                row.source, row.prefix = row.prefix, row.prefix.attended

    def find_copy(self, row_kv: RowKv) -> None:
        """Note in a row how many of its own tokens a copy has, if these are more than it has found
        elsewhere."""
        length = row_kv.source.length - row_kv.shared if row_kv.source else 0
        if length > row_kv.copied:
            row_kv.blocks, row_kv.copied = [], length

    def copy(self, entering: Sequence[tuple[int, RowKv]], own: OwnKv) -> None:
        """Copy prefixes into the slots of rows that enter: into neighbouring ones at once."""
        if isinstance(own, PagedSlots):
            for _, run in groupby(enumerate(entering), key=lambda at: (at[1][1].prefix, at[1][0] - at[0])):
                slots = [slot_and_kv for _, slot_and_kv in run]
                own.begin(slots[0][0], len(slots), slots[0][1].prefix)
            return
        wanted = [
            (slot, row_kv) for slot, row_kv in entering if row_kv.source is not None and not row_kv.blocks
        ]
        for _, run in groupby(
            enumerate(wanted), key=lambda at: (at[1][1].source, at[1][1].prefix, at[1][0] - at[0])
        ):
            slots = [slot_and_kv for _, slot_and_kv in run]
            (first, row_kv), (last, _) = slots[0], slots[-1]
            assert isinstance(own, Slots)
            for prefix in row_kv.needed[len(row_kv.path) :]:
                at = prefix.start - row_kv.shared
                for layer in range(own.heads.layers):
                    stored = prefix.kv.stored(layer)
                    for slot_tensor, copied in zip((own.keys[layer], own.values[layer]), stored, strict=True):
                        slot_tensor[first : last + 1, :, at : at + copied.shape[1]] = copied

    def _deepest(self, prompt: Sequence[int], adapter: str | None) -> Prefix | None:
        """Return the deepest known prefix that a prompt of an adapter begins with; the prompt's
        last token stays its own."""
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


def _key(prefix: Prefix) -> tuple[Prefix | None, str | None, int]:
    """Return what a prefix is found by."""
    return prefix.parent, prefix.adapter, prefix.tokens[0]
