"""One decoding step of all rows with tensors that stay where they are, so that a GPU can record and
repeat it.

The host writes one small table for each step: of every row its token, its position, the place for
its key and value, and which prefixes it sees. Tokens that the host has not read yet are put there
on the device, where all that follows is computed. The number of rows and of own places is rounded
up, so few shapes occur. Rows that fill up a shape decode nothing: they write into a place of their
slot that no token has yet. Where attention takes each row's number of own keys, a shape is a number
of rows alone.

On a GPU a shape that occurs again and again is recorded as a CUDA graph (step_graphs.py), and later
steps of this shape are one call. Elsewhere, and where recording fails, the same function runs
operation by operation.

Where attention reads pages by a table (paged_slots.py), one call attends to a row's prefixes, too:
which prefixes there are changes nothing in a step. But it reads them once for each row: where that
would be much, pages that all rows begin with are read once for all of them, as prefixes are without
pages.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from runner_engine.attention import PLAIN, Softmax, running
from runner_engine.attention.device_attention import (
    OwnKeys,
    Part,
    attend,
    attend_by_length,
    attends_by_length,
)
from runner_engine.attention.parts import Scaling, by_token, joined_by_logs, padded_heads, sinks_term
from runner_engine.checkpoints.pass_memory import FEWEST_PLACES, rounded_rows
from runner_engine.decode.passes.step_graphs import CudaGraphs, Record, StepGraphs
from runner_engine.decode.rows import Row
from runner_engine.devices.gpu import put
from runner_engine.kv_cache import Heads, PagedSlots, Prefix, Slots, Window, rounded

# bytes of a layer's common pages that a step's rows read one by one: to read more takes longer than
# ten operations do, by an estimate (4 TB/s from a GPU's cache, 3 µs an operation)
MOST_READ = 2**27
MOST_PREFIXES = 8  # that a step reads for all of its rows: with more, most rows would see few of them
TOKEN, POSITION, PLACE, SEES = range(4)  # columns of the table; from SEES on, one for each prefix
OWN = -1  # in place of a prefix's number: the row's own keys


@dataclass
class StepAttention:
    """The attention of one step: over prefixes that all rows read together, and over each row's own
    keys."""

    heads: Heads
    own: Slots
    prefixes: list[Prefix]
    table: torch.Tensor  # int64 [B, SEES + prefixes]
    places: int  # of own keys that are read; 0: attention takes each row's number of them
    blocks: torch.Tensor | None = None  # int32 [B, pages]: of each row, with its prefixes
    common: int = 0  # of these pages, how many stand in `prefixes`, too: all rows begin with them
    _hidden: dict[tuple[Window | None, int], torch.Tensor] = field(init=False, default_factory=dict)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float,
        softmax: Softmax = PLAIN,
    ) -> torch.Tensor:  # fmt: skip
        """Return [B, H, D] for query [H, B, D], key and value [KVH, B, D] of one layer."""
        heads, width, rows = self.heads, value.shape[-1], query.shape[1]
        scaling, window = (Scaling(scale, softmax.cap), heads.windows[layer] if heads.windows else None)
        layer = heads.store_of(layer)
        heads.check_layer(layer)
        query, key, value = map(heads.turned, padded_heads(heads, query, key, value))
        grouped = query.view(heads.kv_heads, heads.group, rows, heads.dim)  # [KVH, G, B, D]
        out, top = self._of_own(layer, scaling, window, grouped, key, value)
        parts = [
            self._of_prefix(number, layer, scaling, window, grouped) for number in range(len(self.prefixes))
        ]
        if softmax.sinks is not None:
            zeros, sinks, _ = sinks_term(softmax.sinks, (rows, heads.kv_heads, heads.group), heads.dim)
            parts.append((zeros.to(out.dtype), sinks))
        if parts:
            outs, tops = zip(*parts, strict=True)
            result = joined_by_logs([*outs, out], [*tops, top], query.dtype)
        else:
            result = out.flatten(1, 2)
        result = heads.turned(result)
        return result if width == heads.dim else result[..., :width]

    def _of_own(
        self, layer: int, scaling: Scaling, window: Window | None, grouped: torch.Tensor,
        key: torch.Tensor, value: torch.Tensor,
    ) -> Part:  # fmt: skip
        """Store the new keys and values, and attend all rows to their own ones: [B, KVH, G, D] and
        [B, KVH, G]."""
        heads, rows = self.heads, len(self.table)
        key, value, by_row = key.transpose(0, 1), value.transpose(0, 1), grouped.permute(2, 0, 1, 3)
        if not self.places:
            keys, values = self.own.flat(layer, rows)
            keys.index_copy_(0, self._new_places, key)
            values.index_copy_(0, self._new_places, value)
            size = None if window is None else window.size
            blocks = None if self.blocks is None else self.blocks[:, self.common :]
            own = OwnKeys(
                keys, values, self._rows, self._starts, self._counts, self._places_of_row, size, blocks
            )
            out, top = attend_by_length(scaling, by_row.flatten(1, 2), own)
            return out.view(by_row.shape), top.view(by_row.shape[:3])
        self.own.write(layer, key, value, self._slots, self.table[:, PLACE])
        stored = (some[layer][:rows, :, : self.places] for some in (self.own.keys, self.own.values))
        keys, values = heads.to_numbers(layer, *stored)
        return attend(scaling, by_row, keys, values, self._hidden_own(window)[:, None, None])

    def _of_prefix(
        self, number: int, layer: int, scaling: Scaling, window: Window | None, grouped: torch.Tensor
    ) -> Part:
        """Attend all rows to a prefix; those that do not see it get no weight."""
        group, rows = grouped.shape[1:3]
        prefix = self.prefixes[number]
        keys, values = prefix.kv.read(layer)
        if self.common:  # what is left behind the last common page is in the rows' own pages
            keys, values = (
                some[:, : self.common * self.heads.page - prefix.start] for some in (keys, values)
            )
        sees, hidden = self.table[:, SEES + number] > 0, None
        if window is not None:
            hidden = self._hidden_of(window, number)
            sees = sees & ~hidden.all(dim=-1)
            hidden = hidden.repeat_interleave(group, dim=0)[None, None]
        out, top = (
            some[0].view(len(grouped), rows, group, *some.shape[3:]).transpose(0, 1)
            for some in attend(scaling, by_token(grouped)[None], keys[None], values[None], hidden)
        )
        return out, top.where(sees[:, None, None], -torch.inf)

    @cached_property
    def _slots(self) -> torch.Tensor:
        return torch.arange(len(self.table), device=self.table.device)

    @property
    def _places_of_row(self) -> int:
        return (
            self.own.capacity
            if self.blocks is None
            else (self.blocks.shape[1] - self.common) * self.heads.page
        )

    @cached_property
    def _starts(self) -> torch.Tensor:
        """Return where each row's places begin in all places: int32 [B + 1]."""
        return self._rows * self._places_of_row

    @cached_property
    def _rows(self) -> torch.Tensor:
        return torch.arange(len(self.table) + 1, dtype=torch.int32, device=self.table.device)

    @cached_property
    def _counts(self) -> torch.Tensor:
        """Return how many places each row sees, but for those of common pages, the new one
        included: int32 [B]."""
        if self.blocks is None:
            return (self.table[:, PLACE] + 1).int()
        return (self.table[:, POSITION] + 1 - self.common * self.heads.page).clamp_(min=1).int()

    @cached_property
    def _new_places(self) -> torch.Tensor:
        """Return where each row's new key and value belong in all places: int64 [B]."""
        if self.blocks is None:
            return self._slots * self.own.capacity + self.table[:, PLACE]
        page, position = self.heads.page, self.table[:, POSITION]
        return self.blocks.gather(1, position[:, None] // page)[:, 0].long() * page + position % page

    def _first(self, window: Window) -> torch.Tensor:
        """Return the first position that each row sees: int64 [B]."""
        position = self.table[:, POSITION]
        if window.is_chunk:
            return position // window.size * window.size
        return (position - window.size + 1).clamp(min=0)

    def _hidden_of(self, window: Window, number: int) -> torch.Tensor:
        """Return which places of a prefix are behind each row's window: bool [B, L]."""
        if (window, number) not in self._hidden:
            prefix = self.prefixes[number]
            positions = torch.arange(prefix.start, prefix.length, device=self.table.device)
            self._hidden[window, number] = positions[None] < self._first(window)[:, None]
        return self._hidden[window, number]

    def _hidden_own(self, window: Window | None) -> torch.Tensor:
        """Return which own places each row does not see, or not yet: bool [B, places]."""
        if (window, OWN) not in self._hidden:
            place = self.table[:, PLACE]
            places = torch.arange(self.places, device=self.table.device)[None]
            hidden = places > place[:, None]
            if window is not None:  # own places begin after the prefixes
                hidden |= places < (self._first(window) - self.table[:, POSITION] + place)[:, None]
            self._hidden[window, OWN] = hidden
        return self._hidden[window, OWN]


@dataclass
class StepRows:
    """The rows of a step in the slots 0 … n-1, and behind them those whose prompts are not
    complete."""

    own: Slots
    rows: Sequence[Row]
    reading: Sequence[Row]
    picked: torch.Tensor | None = None  # int64 [n]: the rows' last tokens, which only the device has so far


class DeviceStep:
    """Computes the logits of one more token of every row, on the device alone."""

    def __init__(self, model: Any, heads: Heads, record: Record | None = None) -> None:
        self.model, self.heads, self.by_length = model, heads, attends_by_length(heads)
        if record is None and heads.device.type == "cuda":
            record = CudaGraphs(heads.device)
        self.graphs = StepGraphs(record)
        self._table = torch.zeros(0, SEES + MOST_PREFIXES, dtype=torch.int64, device=heads.device)
        self._read: list[
            weakref.ref[Any]
        ] = []  # what recordings read besides the table: they do not keep it alive

    def fits(self, rows: Sequence[Row]) -> bool:
        """Whether these rows see few enough prefixes, or see them as pages."""
        return self.heads.in_pages or len(_prefixes(rows)[0]) <= MOST_PREFIXES

    def __call__(self, step: StepRows, ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Send the last token of each row; return the logits [n, V], valid until the next step.

        ids: these tokens, which count for nothing where only the device has them.
        """
        own, rows = step.own, step.rows
        blocks, read, common = None, [own.keys[0]], 0
        count = min(rounded_rows(len(rows)), own.slots)
        if isinstance(own, PagedSlots):
            read.append(blocks := own.blocks)
            prefixes, common = self._read_once(rows, count)
            seen = [1] * len(prefixes) + [0] * (MOST_PREFIXES - len(prefixes))
            seen_by = dict.fromkeys((row.kv.prefix for row in rows), seen)
        else:
            prefixes, seen_by = _prefixes(rows)
        places = (
            0 if self.by_length else _rounded_places(max(row.kv.places for row in rows) + 1, own.capacity)
        )
        if len(self._table) < count:
            self._table, self._read = self._table.new_zeros(own.slots, self._table.shape[1]), []
        self._forget_others([*read, *(prefix.kv for prefix in prefixes)])
        lines = [
            [token, position, row.kv.places, *seen_by[row.kv.prefix]]
            for token, position, row in zip(ids, positions, rows, strict=True)
        ]
        filling = [
            (row.kv.shared + row.kv.places, row.kv.places) for row in step.reading[: count - len(rows)]
        ]
        filling += [(0, 0)] * (count - len(rows) - len(filling))
        lines += [[0, *filled, *[0] * MOST_PREFIXES] for filled in filling]
        put(torch.tensor(lines), self._table[:count])
        if step.picked is not None:
            self._table[: len(rows), TOKEN].copy_(step.picked)
        blocks = None if blocks is None else blocks[:count]
        attention = StepAttention(self.heads, own, prefixes, self._table[:count], places, blocks, common)
        tokens = attention.table[:, TOKEN]
        # each run makes its masks anew: a recording must compute them, too
        return self.graphs.logits(
            (count, places + common * self.heads.page), tokens, lambda: self._run(replace(attention))
        )[: len(rows)]

    def forget(self) -> None:
        """Free recorded steps and their memory."""
        self.graphs.forget()
        self._read = []

    def _read_once(self, rows: Sequence[Row], count: int) -> tuple[list[Prefix], int]:
        """Return the prefixes of the whole pages that all rows begin with, and how many pages: none
        if they are few."""
        heads = self.heads
        if any(heads.windows):
            return [], 0
        paths = [
            prefix.path for prefix in {row.kv.prefix: row.kv.prefix for row in rows if row.kv.prefix}.values()
        ]
        shared = [some[0] for some in zip(*paths, strict=False) if len({*some}) == 1][:MOST_PREFIXES]
        pages = shared[-1].length // heads.page if shared and all(row.kv.prefix for row in rows) else 0
        bytes_of_token = heads.bytes_per_token // heads.layers
        if count * pages * heads.page * bytes_of_token < MOST_READ:
            return [], 0
        return [one for one in shared if one.start < pages * heads.page], pages

    def _forget_others(self, read: list[Any]) -> None:
        """Forget recordings that read other tensors than these."""
        is_same = len(read) == len(self._read)
        if not is_same or any(one() is not other for one, other in zip(self._read, read, strict=True)):
            self.forget()
            self._read = [weakref.ref(one) for one in read]

    def _run(self, attention: StepAttention) -> torch.Tensor:
        """Return the logits [B, V], operation by operation."""
        table = attention.table
        with torch.inference_mode(), running(self.model, attention.attend):
            output = self.model(
                input_ids=table[None, :, TOKEN],
                position_ids=table[None, :, POSITION],
                use_cache=False,
                logits_to_keep=0,
            )
        logits: torch.Tensor = output.logits[0]
        return logits


def _prefixes(rows: Sequence[Row]) -> tuple[list[Prefix], dict[Prefix | None, list[int]]]:
    """Return all prefixes of rows, and which of them a row sees, by its deepest one: a 1 for each,
    filled up by 0."""
    deepest = dict.fromkeys(row.kv.prefix for row in rows)
    paths = {prefix: prefix.path if prefix else [] for prefix in deepest}
    prefixes = sorted(
        dict.fromkeys(one for path in paths.values() for one in path),
        key=lambda prefix: (prefix.start, id(prefix)),
    )
    sees = {
        prefix: [*(int(prefix in path) for prefix in prefixes), *[0] * (MOST_PREFIXES - len(prefixes))]
        for prefix, path in paths.items()
    }
    return prefixes, sees


def _rounded_places(count: int, most: int) -> int:
    """Return a number of places rounded up to a power of two, or the one and a half of it."""
    power = max(1 << (count - 1).bit_length(), FEWEST_PLACES)
    return min(rounded(power * 3 // 4 if count <= power * 3 // 4 and power > FEWEST_PLACES else power), most)
