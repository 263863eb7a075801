"""A decoding step of all sequences whose tensors keep their addresses, as CUDA graphs require.

CUDA graphs can replay this step.

The host writes one small table for each step: for every sequence its token, its position,
the index of its new key and value, and the prefixes that it attends to. Tokens that the
host has not read yet are copied in on the device. The number of sequences and of own
positions is rounded up, so few shapes occur. Padding sequences decode nothing: they write
to a position of their slot that no token has yet. Where attention takes each sequence's
number of own keys, the shape is only a number of sequences.

On a GPU a shape that occurs repeatedly is recorded as a CUDA graph (step_graphs.py), and
later steps of this shape are one call. Elsewhere, and where recording fails, the same
function runs operation by operation.

Where attention reads pages by a table (paged_slots.py), one call attends to a sequence's
prefixes too, so the set of prefixes does not change the step. But it reads them once for
each sequence. Where that would be expensive, pages that all sequences begin with are read
once for all of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from runner_engine.attention import PLAIN, Softmax, use_attention_function
from runner_engine.attention.device_attention import (
    OutputAndLogSum,
    OwnKeys,
    attend,
    compute_variable_length_attention,
    supports_variable_key_counts,
)
from runner_engine.attention.partial_attention import (
    Scaling,
    build_attention_sink_term,
    expand_heads_to_kv_shape,
    merge_attention_by_log_sums,
    merge_groups_by_token,
)
from runner_engine.checkpoints.pass_memory import FEWEST_PLACES, round_up_batch_size
from runner_engine.decode.passes.step_graphs import CudaGraphRecorder, Record, StepGraphs
from runner_engine.decode.sequences import TokenSequence
from runner_engine.devices.gpu import copy_into_device_tensor
from runner_engine.kv_cache import KvCacheSpec, PagedSlots, Prefix, SlotStore, Window, round_up_positions

# bytes of a layer's common pages that a step's rows read one by one: to read more takes longer than
# ten operations do, by an estimate (4 TB/s from a GPU's cache, 3 µs an operation)
MOST_READ = 2**27
MOST_PREFIXES = 8  # that a step reads for all of its rows: with more, most rows would see few of them
TOKEN, POSITION, PLACE, SEES = range(4)  # columns of the table; from SEES on, one for each prefix
OWN = -1  # in place of a prefix's number: the row's own keys


@dataclass
class StepAttention:
    """Attention of one decoding step: to shared prefixes and to the unshared keys of each sequence."""

    heads: KvCacheSpec
    own: SlotStore
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
        """Return attention outputs [B, H, D] of one layer.

        query is [H, B, D]; key and value are [KVH, B, D].
        """
        heads, width, rows = self.heads, value.shape[-1], query.shape[1]
        scaling, window = (Scaling(scale, softmax.cap), heads.windows[layer] if heads.windows else None)
        layer = heads.store_layer(layer)
        heads.check_layer(layer)
        query, key, value = map(
            heads.apply_hadamard_rotation_if_enabled, expand_heads_to_kv_shape(heads, query, key, value)
        )
        grouped = query.view(heads.kv_heads, heads.group, rows, heads.dim)  # [KVH, G, B, D]
        out, top = self._compute_attention_to_unshared_keys(layer, scaling, window, grouped, key, value)
        parts = [
            self._compute_attention_to_prefix(number, layer, scaling, window, grouped)
            for number in range(len(self.prefixes))
        ]
        if softmax.sinks is not None:
            zeros, sinks, _ = build_attention_sink_term(
                softmax.sinks, (rows, heads.kv_heads, heads.group), heads.dim
            )
            parts.append((zeros.to(out.dtype), sinks))
        if parts:
            outs, tops = zip(*parts, strict=True)
            result = merge_attention_by_log_sums([*outs, out], [*tops, top], query.dtype)
        else:
            result = out.flatten(1, 2)
        result = heads.apply_hadamard_rotation_if_enabled(result)
        return result if width == heads.dim else result[..., :width]

    def _compute_attention_to_unshared_keys(
        self, layer: int, scaling: Scaling, window: Window | None, grouped_query: torch.Tensor,
        key: torch.Tensor, value: torch.Tensor,
    ) -> OutputAndLogSum:  # fmt: skip
        """Store new keys and values, then compute attention to each sequence's unshared keys.

        Returns outputs [B, KVH, G, D] and log-sums [B, KVH, G].
        """
        heads, rows = self.heads, len(self.table)
        key, value, by_row = key.transpose(0, 1), value.transpose(0, 1), grouped_query.permute(2, 0, 1, 3)
        if not self.places:
            keys, values = self.own.get_flat_kv(layer, rows)
            keys.index_copy_(0, self._flat_indices_of_newest_kv, key)
            values.index_copy_(0, self._flat_indices_of_newest_kv, value)
            size = None if window is None else window.size
            blocks = None if self.blocks is None else self.blocks[:, self.common :]
            own = OwnKeys(
                keys,
                values,
                self._sequence_indices,
                self._first_kv_indices,
                self._num_visible_positions,
                self._positions_per_sequence,
                size,
                blocks,
            )
            out, top = compute_variable_length_attention(scaling, by_row.flatten(1, 2), own)
            return out.view(by_row.shape), top.view(by_row.shape[:3])
        self.own.write(layer, key, value, self._slots, self.table[:, PLACE])
        stored = (some[layer][:rows, :, : self.places] for some in (self.own.keys, self.own.values))
        keys, values = heads.decode_kv(layer, *stored)
        return attend(
            scaling, by_row, keys, values, self._build_unshared_positions_mask(window)[:, None, None]
        )

    def _compute_attention_to_prefix(
        self,
        prefix_index: int,
        layer: int,
        scaling: Scaling,
        window: Window | None,
        grouped_query: torch.Tensor,
    ) -> OutputAndLogSum:
        """Compute attention of all sequences to a shared prefix.

        Sequences without this prefix get weight zero.
        """
        group, rows = grouped_query.shape[1:3]
        prefix = self.prefixes[prefix_index]
        keys, values = prefix.kv.read(layer)
        if self.common:  # what is left behind the last common page is in the rows' own pages
            keys, values = (
                some[:, : self.common * self.heads.page - prefix.start] for some in (keys, values)
            )
        sees, hidden = self.table[:, SEES + prefix_index] > 0, None
        if window is not None:
            hidden = self._build_prefix_window_mask(window, prefix_index)
            sees = sees & ~hidden.all(dim=-1)
            hidden = hidden.repeat_interleave(group, dim=0)[None, None]
        out, top = (
            some[0].view(len(grouped_query), rows, group, *some.shape[3:]).transpose(0, 1)
            for some in attend(
                scaling, merge_groups_by_token(grouped_query)[None], keys[None], values[None], hidden
            )
        )
        return out, top.where(sees[:, None, None], -torch.inf)

    @cached_property
    def _slots(self) -> torch.Tensor:
        return torch.arange(len(self.table), device=self.table.device)

    @property
    def _positions_per_sequence(self) -> int:
        return (
            self.own.capacity
            if self.blocks is None
            else (self.blocks.shape[1] - self.common) * self.heads.page
        )

    @cached_property
    def _first_kv_indices(self) -> torch.Tensor:
        """Index of each sequence's first position in the flat KV tensor: int32 [B + 1]."""
        return self._sequence_indices * self._positions_per_sequence

    @cached_property
    def _sequence_indices(self) -> torch.Tensor:
        return torch.arange(len(self.table) + 1, dtype=torch.int32, device=self.table.device)

    @cached_property
    def _num_visible_positions(self) -> torch.Tensor:
        """Number of KV positions that each sequence attends to: int32 [B].

        Includes the new token, excludes pages common to all sequences.
        """
        if self.blocks is None:
            return (self.table[:, PLACE] + 1).int()
        return (self.table[:, POSITION] + 1 - self.common * self.heads.page).clamp_(min=1).int()

    @cached_property
    def _flat_indices_of_newest_kv(self) -> torch.Tensor:
        """Index of each sequence's newest key and value in the flat KV tensor: int64 [B]."""
        if self.blocks is None:
            return self._slots * self.own.capacity + self.table[:, PLACE]
        page, position = self.heads.page, self.table[:, POSITION]
        return self.blocks.gather(1, position[:, None] // page)[:, 0].long() * page + position % page

    def _compute_window_starts(self, window: Window) -> torch.Tensor:
        """Return the first position in each sequence's sliding window: int64 [B]."""
        position = self.table[:, POSITION]
        if window.is_chunk:
            return position // window.size * window.size
        return (position - window.size + 1).clamp(min=0)

    def _build_prefix_window_mask(self, window: Window, prefix_index: int) -> torch.Tensor:
        """Return a mask of the prefix positions before each sequence's sliding window: bool [B, L]."""
        if (window, prefix_index) not in self._hidden:
            prefix = self.prefixes[prefix_index]
            positions = torch.arange(prefix.start, prefix.length, device=self.table.device)
            self._hidden[window, prefix_index] = (
                positions[None] < self._compute_window_starts(window)[:, None]
            )
        return self._hidden[window, prefix_index]

    def _build_unshared_positions_mask(self, window: Window | None) -> torch.Tensor:
        """Return a mask of the unshared positions hidden from each sequence: bool [B, positions]."""
        if (window, OWN) not in self._hidden:
            place = self.table[:, PLACE]
            places = torch.arange(self.places, device=self.table.device)[None]
            hidden = places > place[:, None]
            if window is not None:  # own places begin after the prefixes
                hidden |= (
                    places < (self._compute_window_starts(window) - self.table[:, POSITION] + place)[:, None]
                )
            self._hidden[window, OWN] = hidden
        return self._hidden[window, OWN]


@dataclass
class StepInputs:
    """Inputs of a decoding step: active sequences in the first slots, then sequences in prefill."""

    own: SlotStore
    rows: Sequence[TokenSequence]
    reading: Sequence[TokenSequence]
    picked: torch.Tensor | None = None  # int64 [n]: the rows' last tokens, which only the device has so far


class DeviceDecodeStep:
    """Computes the next-token logits of all sequences without reading results on the host."""

    def __init__(self, model: Any, kv_spec: KvCacheSpec, record: Record | None = None) -> None:
        self.model, self.heads, self.by_length = model, kv_spec, supports_variable_key_counts(kv_spec)
        if record is None and kv_spec.device.type == "cuda":
            record = CudaGraphRecorder(kv_spec.device)
        self.graphs = StepGraphs(record)
        self._table = torch.zeros(0, SEES + MOST_PREFIXES, dtype=torch.int64, device=kv_spec.device)
        self._read: list[
            weakref.ref[Any]
        ] = []  # what recordings read besides the table: they do not keep it alive

    def can_run(self, sequences: Sequence[TokenSequence]) -> bool:
        """Whether the step supports these sequences.

        Without paged attention, the number of shared prefixes is limited.
        """
        return (
            self.heads.uses_pages or len(_list_prefixes_and_visibility_flags(sequences)[0]) <= MOST_PREFIXES
        )

    def __call__(self, step: StepInputs, token_ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Run the model on the last token of each sequence. Returns logits [n, V].

        The logits are valid until the next step. token_ids: the last tokens. They are ignored if
        `step.picked` holds the tokens on the device.
        """
        own, rows = step.own, step.rows
        blocks, read, common = None, [own.keys[0]], 0
        count = min(round_up_batch_size(len(rows)), own.slots)
        if isinstance(own, PagedSlots):
            read.append(blocks := own.page_table)
            prefixes, common = self._find_pages_shared_by_all_sequences(rows, count)
            seen = [1] * len(prefixes) + [0] * (MOST_PREFIXES - len(prefixes))
            seen_by = dict.fromkeys((row.kv.prefix for row in rows), seen)
        else:
            prefixes, seen_by = _list_prefixes_and_visibility_flags(rows)
        places = (
            0
            if self.by_length
            else _round_up_positions_to_limit_shapes(max(row.kv.places for row in rows) + 1, own.capacity)
        )
        if len(self._table) < count:
            self._table, self._read = self._table.new_zeros(own.slots, self._table.shape[1]), []
        self._discard_outdated_graphs([*read, *(prefix.kv for prefix in prefixes)])
        lines = [
            [token, position, row.kv.places, *seen_by[row.kv.prefix]]
            for token, position, row in zip(token_ids, positions, rows, strict=True)
        ]
        filling = [
            (row.kv.num_shared_tokens + row.kv.places, row.kv.places)
            for row in step.reading[: count - len(rows)]
        ]
        filling += [(0, 0)] * (count - len(rows) - len(filling))
        lines += [[0, *filled, *[0] * MOST_PREFIXES] for filled in filling]
        copy_into_device_tensor(torch.tensor(lines), self._table[:count])
        if step.picked is not None:
            self._table[: len(rows), TOKEN].copy_(step.picked)
        blocks = None if blocks is None else blocks[:count]
        attention = StepAttention(self.heads, own, prefixes, self._table[:count], places, blocks, common)
        tokens = attention.table[:, TOKEN]
        # each run makes its masks anew: a recording must compute them, too
        return self.graphs.replay_graph_or_compute_logits(
            (count, places + common * self.heads.page),
            tokens,
            lambda: self._compute_logits(replace(attention)),
        )[: len(rows)]

    def free_cuda_graphs(self) -> None:
        self.graphs.free_cuda_graphs()
        self._read = []

    def _find_pages_shared_by_all_sequences(
        self, sequences: Sequence[TokenSequence], batch_size: int
    ) -> tuple[list[Prefix], int]:
        """Return the paged prefixes that all sequences share, and the number of their pages.

        Returns no prefixes if reading the pages once per sequence is cheap enough.
        """
        heads = self.heads
        if any(heads.windows):
            return [], 0
        paths = [
            prefix.path
            for prefix in {row.kv.prefix: row.kv.prefix for row in sequences if row.kv.prefix}.values()
        ]
        shared = [some[0] for some in zip(*paths, strict=False) if len({*some}) == 1][:MOST_PREFIXES]
        pages = shared[-1].length // heads.page if shared and all(row.kv.prefix for row in sequences) else 0
        bytes_of_token = heads.bytes_per_token // heads.layers
        if batch_size * pages * heads.page * bytes_of_token < MOST_READ:
            return [], 0
        return [one for one in shared if one.start < pages * heads.page], pages

    def _discard_outdated_graphs(self, tensors: list[Any]) -> None:
        """Discard the recorded CUDA graphs if they read other tensors than the given ones."""
        is_same = len(tensors) == len(self._read)
        if not is_same or any(one() is not other for one, other in zip(self._read, tensors, strict=True)):
            self.free_cuda_graphs()
            self._read = [weakref.ref(one) for one in tensors]

    def _compute_logits(self, attention: StepAttention) -> torch.Tensor:
        """Compute the logits [B, V] without a CUDA graph."""
        table = attention.table
        with torch.inference_mode(), use_attention_function(self.model, attention.attend):
            output = self.model(
                input_ids=table[None, :, TOKEN],
                position_ids=table[None, :, POSITION],
                use_cache=False,
                logits_to_keep=0,
            )
        logits: torch.Tensor = output.logits[0]
        return logits


def _list_prefixes_and_visibility_flags(
    sequences: Sequence[TokenSequence],
) -> tuple[list[Prefix], dict[Prefix | None, list[int]]]:
    """Return all prefixes of the sequences, and flags that mark the prefixes visible to each sequence.

    A flag is 1 for a visible prefix, else 0. The list is padded with zeros to the maximum number of
    prefixes.
    """
    deepest = dict.fromkeys(row.kv.prefix for row in sequences)
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


def _round_up_positions_to_limit_shapes(num_positions: int, max_positions: int) -> int:
    """Round a number of positions up to 2^k or 1.5 · 2^k, to limit the number of tensor shapes."""
    power = max(1 << (num_positions - 1).bit_length(), FEWEST_PLACES)
    return min(
        round_up_positions(
            power * 3 // 4 if num_positions <= power * 3 // 4 and power > FEWEST_PLACES else power
        ),
        max_positions,
    )
