"""Slots that consist of pages, and pages of prefixes behind them: for attention that reads each row's pages by a table.

A row's keys and values are then where its positions are: position p is in page p // page of its list, whoever has
computed it. The whole pages of a prefix are stored once, and are in the lists of all rows that begin with it. What is
left of the prefix, less than a page, is copied to the beginning of each row's slot, and the row's own places follow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain

import torch

from runner_engine.devices.gpu import put
from runner_engine.kernels.shared_numbers import LANES
from runner_engine.kv_cache.formats import KvFormat
from runner_engine.kv_cache.kv_cache import Heads, rounded
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.slots import Slots


class PagedSlots(Slots):
    """A slot of whole pages for each row, and behind all slots the pages that rows share."""

    def __init__(self, heads: Heads) -> None:
        self.page = heads.page
        self.spare = 0  # pages behind the slots
        self.shared: dict[
            Prefix, list[int]
        ] = {}  # each prefix's own whole pages, by their numbers behind the slots
        self.continued: list[Prefix | None] = []  # the prefix that each slot continues
        self.before: list[
            int
        ] = []  # places of each slot with a copy of this prefix's end; the row's own ones follow
        self._blocks = torch.zeros(0, 0, dtype=torch.int32, device=heads.device)
        self._starts = torch.zeros(0, dtype=torch.int64, device=heads.device)
        self._is_new = True  # the tables do not show what rows have now
        super().__init__(heads)

    @property
    def held(self) -> int:
        """As for slots; pages of prefixes that rows continue are counted with the prefixes."""
        of_prefixes = self.page * sum(len(self.shared.get(prefix, ())) for prefix in self._prefixes())
        return (
            super().held
            if self.heads.device.type == "cpu"
            else len(self.keys[0]) * self.capacity - of_prefixes
        )

    @property
    def blocks(self) -> torch.Tensor:
        """The pages of each slot's row, in order: int32 [slot, pages], in one place until more are
        needed."""
        self._show()
        return self._blocks

    def expect(self, prefixes: Collection[Prefix]) -> None:
        """Let the store's first tensors have room for the pages of these prefixes, too: to grow
        copies everything."""
        if not self.slots:
            self.spare = sum(prefix.pages(self.page) for prefix in prefixes)

    def begin(self, first: int, count: int, prefix: Prefix | None) -> None:
        """Let rows that enter neighbouring slots continue a prefix whose keys and values are
        complete."""
        rest = prefix.length % self.page if prefix else 0
        self.continued[first : first + count], self.before[first : first + count] = (
            [prefix] * count,
            [rest] * count,
        )
        self._is_new = True
        if prefix is None:
            return
        self._share(prefix)
        for layer in range(self.heads.layers):
            place = 0
            for keys, values in _stored(prefix, layer, prefix.length - rest, prefix.length):
                at = slice(place, place + keys.shape[1])
                self.keys[layer][first : first + count, :, at] = keys
                self.values[layer][first : first + count, :, at] = values
                place = at.stop
        for slot in range(first, first + count):
            self.filled[slot] = max(self.filled[slot], rest)

    def enter(self, at: int, count: int, needs: Sequence[int], held: Sequence[int], most: int) -> None:
        """As for slots: the rows continue nothing until `begin`."""
        super().enter(at, count, needs, held, most)
        self.continued[at : at + count], self.before[at : at + count] = [None] * count, [0] * count
        self._is_new = True

    def leave(self, slot: int, active: int, is_sound: bool = True) -> None:
        super().leave(slot, active, is_sound)
        self.continued[self.used], self.before[self.used] = None, 0
        self._is_new = True

    def holds(self, places: Sequence[int]) -> bool:
        """As for slots, behind the copies of what rows continue."""
        return all(own + before <= self.capacity for own, before in zip(places, self.before, strict=False))

    def lengthen(self, places: int, need: int) -> None:
        """As for slots, behind the copies of what rows continue."""
        super().lengthen(min(places + max(self.before), max(places, need)), need)

    def fill(self, slot: int, places: int) -> None:
        """Note how many own places of a slot hold tokens."""
        super().fill(slot, self.before[slot] + places)

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor
    ) -> None:
        """Store keys and values [T, KVH, D] of a layer in their slots and own places."""
        self._show()
        super().write(layer, keys, values, slot, place + self._starts[slot.long()])

    def stored(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, W] of a row's own places."""
        start = self.before[slot]
        keys, values = super().stored(layer, slot, start + places)
        return keys[:, start:], values[:, start:]

    def tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values: the row's own places, as many as are whole
        blocks."""
        start = self.before[slot]
        end = start + (self.capacity - start) // LANES * LANES
        return [tensor[:, start:end] for tensor in super().tensors(slot)]

    def flat(self, layer: int, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of all pages: a row's may be anywhere."""
        return super().flat(layer, len(self.keys[layer]))

    # else the tables that one pass makes could not be changed outside of passes
    @torch.inference_mode(mode=False)
    def _show(self) -> None:
        """Bring the tables on the device up to date."""
        if not self._is_new:
            return
        self._is_new, each = False, self.capacity // self.page
        shared = {
            prefix: [
                self.slots * each + page
                for one in prefix.path
                if one in self.shared
                for page in self.shared[one]
            ]
            for prefix in set(self.continued)
            if prefix is not None
        }
        lists = [
            [*(shared[prefix] if prefix else ()), *range(slot * each, (slot + 1) * each)]
            for slot, prefix in enumerate(self.continued)
        ]
        width = max(self._blocks.shape[1], *map(len, lists), 1)
        if self._blocks.shape != (self.slots, width):
            self._blocks = self._blocks.new_zeros(self.slots, width)
            self._starts = self._starts.new_zeros(self.slots)
        for some in lists:
            some += some[-1:] * (width - len(some))  # never read, and yet a page
        for table, numbers in ((self._blocks, lists), (self._starts, self.before)):
            put(torch.tensor(numbers, dtype=table.dtype), table)

    def _share(self, prefix: Prefix) -> None:
        """Store the whole pages of a prefix that are not there; those that no row reads any more
        become free."""
        prefixes = self._prefixes()
        self.shared = {one: pages for one, pages in self.shared.items() if one in prefixes}
        used = set(chain.from_iterable(self.shared.values()))
        missing = [one for one in prefix.path if one not in self.shared and one.pages(self.page)]
        wanted = sum(one.pages(self.page) for one in missing)
        if self.spare - len(used) < wanted:
            self.spare = max(2 * self.spare, len(used) + wanted)
            self._grow(self.slots, self.capacity)
        free = (page for page in range(self.spare) if page not in used)
        for one in missing:
            self.shared[one] = [next(free) for _ in range(one.pages(self.page))]
            self._store(one)

    def _store(self, prefix: Prefix) -> None:
        """Store a prefix's whole pages; the first one may begin with the end of the prefix
        before."""
        places = (
            torch.tensor(self.shared[prefix], device=self.heads.device) * self.page
            + self.slots * self.capacity
        )
        places = (places[:, None] + torch.arange(self.page, device=self.heads.device)).flatten()
        first, last = (some // self.page * self.page for some in (prefix.start, prefix.length))
        for layer in range(self.heads.layers):
            for pool, parts in zip(
                self.flat(layer, 0), zip(*_stored(prefix, layer, first, last), strict=True), strict=True
            ):
                pool.index_copy_(0, places, torch.cat(parts, dim=1).transpose(0, 1))

    def _prefixes(self) -> set[Prefix]:
        """Return what rows continue, with all that is before."""
        return {one for prefix in set(self.continued) if prefix for one in prefix.path}

    def _rounded(self, places: int) -> int:
        return rounded(places, self.page)

    def _empty(self, of: KvFormat, slots: int, capacity: int) -> torch.Tensor:
        return super()._empty(
            of, slots + (-(-self.spare * self.page // capacity) if capacity else 0), capacity
        )

    def _grow(self, slots: int, capacity: int) -> None:
        super()._grow(slots, capacity)
        self.continued += [None] * (slots - len(self.continued))
        self.before += [0] * (slots - len(self.before))
        self._is_new = True

    def _move(self, old: torch.Tensor, new: torch.Tensor, slots: int) -> None:
        super()._move(old, new, slots)
        ours, theirs = (
            some.transpose(1, 2).flatten(0, 1)[count * some.shape[2] :]
            for some, count in ((old, self.slots), (new, slots))
        )
        ours = ours[: len(theirs)]
        theirs[: len(ours)] = ours

    def _copy(self, source: int, target: int) -> None:
        super()._copy(source, target)
        self.continued[target], self.before[target] = self.continued[source], self.before[source]


def _stored(prefix: Prefix, layer: int, first: int, last: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Go through keys and values [KVH, n, W] of the positions first … last-1 of a prefix, as they
    are stored."""
    for one in prefix.path:
        at = slice(max(first - one.start, 0), max(last - one.start, 0))
        keys, values = (some[:, at] for some in one.kv.stored(layer))
        if keys.shape[1]:
            yield keys, values
