"""The scheduler's KV cache: the specification of its tensors, its size, and the interface of
its stores.
"""

from __future__ import annotations

import ctypes
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch

from runner_base import MIB
from runner_base.notes import Note
from runner_engine.checkpoints.kv_size import layer_head_bytes
from runner_engine.checkpoints.pass_memory import compute_max_sequences
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import LANES, MAX_DIM, MAX_GROUP
from runner_engine.kernels.kv_layers import KvLayer
from runner_engine.kv_cache.formats import KvFormat, load_format
from runner_engine.kv_cache.memory_pages import allocate_zeros
from runner_engine.kv_cache.rotation import hadamard_rotate, rotation_block_size
from runner_engine.kv_cache.sliding_windows import Window, widest_window
from runner_engine.memory import free_mib
from runner_engine.recurrent import SequenceStates, Shapes, state_nbytes
from runner_engine.settings.kv_cache import FIRST_TOKENS, KvCache, KvPrecision

SHARE_OF_MEMORY = 0.5  # of free memory is for keys and values; activations need memory, too


@dataclass
class KvCacheSpec:
    """Shape, dtype and format of stored keys and values. All layers are equal; smaller heads are
    padded.
    """

    layers: int  # that store keys and values; others attend to those of an earlier one
    kv_heads: int
    group: int  # query heads for each key-value head
    dim: int
    dtype: torch.dtype
    device: torch.device
    windows: tuple[
        Window | None, ...
    ] = ()  # of each layer, None = it sees everything; empty if they are unknown
    stores: tuple[int, ...] = ()  # for each layer, which of `layers` it attends to; empty: each to its own
    plain_softmax: bool = True  # no layer has a cap or sinks
    kv_cache: KvCache = KvCache.as_model
    attention_tile_rows: int = 0  # of attention to shared keys: 0 = vectors (shared_attention.py)
    by_sdpa: bool = (
        False  # attention by torch's SDPA (device_attention.py) and not by kernels or single operations
    )
    page: int = (
        0  # places of a page where a decoding step reads pages by a table (paged_slots.py); 0: it does not
    )
    states: Shapes = ()  # of the layers that carry a state instead of keys and values, or besides them
    note: Note | None = None  # for a job's result, from the trial that found this

    @property
    def is_quantized(self) -> bool:
        """Whether some keys or values are stored quantized."""
        return self.kv_cache.is_quantized

    @property
    def uses_pages(self) -> bool:
        """Whether a decoding step reads pages, which sequences can share."""
        return self.page > 0 and not self.is_quantized

    def layer_formats(self, layer: int) -> tuple[KvFormat, KvFormat]:
        """Return the formats of keys and of values in a layer of the store."""
        keys, values = self.kv_cache.get_layer_precisions(layer, self.layers)
        return load_format(keys), load_format(values)

    def position_nbytes(self, layer: int) -> tuple[int, int]:
        """Return the bytes of a key and of a value of one position and one head in a layer of the
        store.
        """
        return self._layer_position_nbytes[layer]

    @cached_property
    def _layer_position_nbytes(self) -> list[tuple[int, int]]:
        sizes = []
        for layer in range(self.layers):
            keys, values = (
                one.stored_width(self.dim) * one.stored_dtype(self.dtype).itemsize
                for one in self.layer_formats(layer)
            )
            sizes.append((keys, values))
        return sizes

    @cached_property
    def kernel_layers(self) -> Any:
        """C array that describes how each layer is stored and where it begins in an arena."""
        entries, keys_before, values_before = [], 0, 0
        ends = [self.kv_heads * sum(side) for side in zip(*self._layer_position_nbytes, strict=True)]
        for layer, (keys, values) in enumerate(self._layer_position_nbytes):
            codes = [one.CODE for one in self.layer_formats(layer)]
            plain_before = layer * LANES * self.kv_heads * self.dim * self.dtype.itemsize
            entries.append(
                KvLayer(*codes, keys_before, values_before, self.rotation_size, *ends, plain_before)
            )
            keys_before += self.kv_heads * keys
            values_before += self.kv_heads * values
        return (KvLayer * max(self.layers, 1))(*entries)

    def kernel_layer_address(self, layer: int) -> int:
        """Return the address of a layer's description for C."""
        self.check_layer(layer)
        return ctypes.addressof(self.kernel_layers) + layer * ctypes.sizeof(KvLayer)

    @property
    def rotation_size(self) -> int:
        """Number of elements of a head that are rotated together. 0 without rotation."""
        return rotation_block_size(self.dim) if self.kv_cache.rotate else 0

    def rotate_if_enabled(self, heads: torch.Tensor, kernels: native.Kernels | None = None) -> torch.Tensor:
        """Rotate queries, keys or values [..., D] if the KV format does. Applied twice, it restores
        results.
        """
        if not self.kv_cache.rotate:
            return heads
        if kernels is None:
            return hadamard_rotate(heads)
        turned = heads.clone(memory_format=torch.contiguous_format)
        address = native.get_tensor_address(turned, self.dtype, *turned.shape)
        kernels("rotate", self.dtype, address, turned.numel() // self.dim, self.dim, self.rotation_size)
        return turned

    @property
    def stored_windows(self) -> tuple[Window | None, ...]:
        """The widest sliding window of any reader of each layer of the store. Empty if unknown."""
        if not self.stores or not self.windows:
            return self.windows
        readers = [
            [self.windows[at] for at, store in enumerate(self.stores) if store == one]
            for one in range(self.layers)
        ]
        return tuple(None if None in of_store else widest_window(of_store) for of_store in readers)

    def store_layer(self, layer: int) -> int:
        """Return which of the stored layers a layer of the model attends to."""
        return self.stores[layer] if self.stores else layer

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        each = [layer_head_bytes(self.kv_cache, layer, self.layers, self.dim, self.dtype.itemsize)
                for layer in range(self.layers)]  # fmt: skip
        return max(self.kv_heads * sum(each), 1)

    @cached_property
    def num_unquantized_first(self) -> int:
        """Number of a text's first tokens that are also stored unquantized: LANES or 0."""
        return FIRST_TOKENS if self.kv_cache.first_tokens else 0

    @property
    def first_tokens_nbytes(self) -> int:
        """Bytes of one text's unquantized first tokens in all layers."""
        return 2 * self.num_unquantized_first * self.layers * self.kv_heads * self.dim * self.dtype.itemsize

    @property
    def first_tokens_cost(self) -> int:
        """Memory of one text's unquantized first tokens, in tokens of the KV cache."""
        return -(-self.first_tokens_nbytes // self.bytes_per_token)

    @cached_property
    def state_tokens(self) -> int:
        """Memory of one sequence's recurrent states, in tokens of the KV cache."""
        return -(-state_nbytes(self.states) // self.bytes_per_token)

    @property
    def max_sequences(self) -> int:
        """Maximum number of sequences that may decode at once."""
        is_plain = KvPrecision.as_model in (self.kv_cache.keys, self.kv_cache.values)
        return compute_max_sequences(self.device.type, self.dtype.itemsize if is_plain else 1)

    def kernel_name(self, name: str) -> str:
        """Return the variant of a kernel that supports the stored format."""
        return f"{name}_bytes" if self.is_quantized else name

    def encode_kv(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert keys and values [..., D] of a layer to stored vectors [..., W]."""
        of_keys, of_values = self.layer_formats(layer)
        return of_keys.encode(keys), of_values.encode(values)

    def decode_kv(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert stored vectors [..., W] of a layer to keys and values [..., D] in the model's
        dtype.
        """
        of_keys, of_values = self.layer_formats(layer)
        return of_keys.decode(keys, self.dim, self.dtype), of_values.decode(values, self.dim, self.dtype)

    def check_layer(self, layer: int) -> None:
        """Raise IndexError for a layer that stores nothing. C would read outside the memory."""
        if not 0 <= layer < self.layers:
            raise IndexError(f"layer {layer}: keys and values are stored for {self.layers} layers")

    def allocate_vectors(self, kv_format: KvFormat, *dims: int) -> torch.Tensor:
        """Return zeros [*dims, W] for keys or values of a format. Zeros, because masked keys must be
        finite.
        """
        shape, dtype = (*dims, kv_format.stored_width(self.dim)), kv_format.stored_dtype(self.dtype)
        return allocate_zeros(math.prod(shape) * dtype.itemsize, self.device).view(dtype).view(shape)

    def allocate_layers(
        self, capacity: int, use_large_pages: bool = False
    ) -> tuple[list[list[torch.Tensor]], list[torch.Tensor]]:
        """Allocate zeros for the keys and for the values [KVH, capacity, W] of all layers,
        contiguously.

        Unquantized keys and values of first tokens [KVH, LANES, D] follow. use_large_pages: as in
        `allocate_zeros`.
        """
        found: list[list[torch.Tensor]] = []
        firsts: list[torch.Tensor] = []
        for side in (0, 1):
            sizes = [self.kv_heads * capacity * of_layer[side] for of_layer in self._layer_position_nbytes]
            size, ends = sum(sizes) + self.first_tokens_nbytes // 2, [0, *accumulate(sizes)]
            whole = allocate_zeros(size, self.device, use_large_pages)
            pieces = [whole[first:end] for first, end in pairwise(ends)]
            kinds = [self.layer_formats(layer)[side] for layer in range(self.layers)]
            found.append(
                [
                    piece.view(kind.stored_dtype(self.dtype)).view(
                        self.kv_heads, capacity, kind.stored_width(self.dim)
                    )
                    for piece, kind in zip(pieces, kinds, strict=True)
                ]
            )
            if self.num_unquantized_first:
                firsts += (
                    whole[ends[-1] :]
                    .view(self.dtype)
                    .view(self.layers, self.kv_heads, LANES, self.dim)
                    .unbind()
                )
        return found, firsts


def select_kernels(kv_spec: KvCacheSpec) -> native.Kernels | None:
    """Return the C kernels if they are available and support these heads and this device."""
    has_format = kv_spec.dtype in native.FORMATS
    has_shape = kv_spec.group <= MAX_GROUP and kv_spec.dim <= MAX_DIM and kv_spec.dim % LANES == 0
    is_here = kv_spec.device.type == "cpu" and not kv_spec.by_sdpa
    return native.load_kernels() if has_format and has_shape and is_here else None


def kv_capacity_tokens(kv_spec: KvCacheSpec, stored_tokens: int = 0) -> int:
    """Return for how many tokens' keys and values there is memory, including tokens already
    stored.
    """
    return int((free_mib(kv_spec.device) * MIB / kv_spec.bytes_per_token + stored_tokens) * SHARE_OF_MEMORY)


def find_store_layers(tensors: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[int, ...]:
    """Return for each layer the index of the stored layer that it attends to. Empty if each
    stores its own.

    A layer that attends to another layer's keys and values receives the same tensors.
    """
    places = [(key.data_ptr(), value.data_ptr()) for key, value in tensors]
    first = list(dict.fromkeys(places))
    return tuple(first.index(place) for place in places) if len(first) < len(places) else ()


class KvStore(ABC):
    """Keys and values of sequences, by slot, with a position per token. Active sequences have
    the first slots.
    """

    heads: KvCacheSpec
    kernels: native.Kernels | None = None
    states: SequenceStates | None = (
        None  # the rows' states, if layers carry some: they move with the keys and values
    )

    def insert_sequences(
        self,
        first_slot: int,
        count: int,
        max_positions: Sequence[int],
        num_filled: Sequence[int],
        expected_sequences: int,
    ) -> None:
        """Insert slots with empty recurrent states. Parameters as in `insert_slots`."""
        self.insert_slots(first_slot, count, max_positions, num_filled, expected_sequences)
        if self.states is not None:
            self.states.insert_slots(first_slot, count, max(expected_sequences, len(max_positions)))

    def remove_sequence(self, slot: int, num_active: int, is_finite: bool = True) -> None:
        """Remove a sequence's slot and its recurrent states. Parameters as in `remove_slot`."""
        self.remove_slot(slot, num_active, is_finite)
        if self.states is not None:
            self.states.remove_slot(slot, num_active)

    @property
    def resident_tokens_with_states(self) -> int:
        """Memory of keys, values and recurrent states, in tokens."""
        return self.resident_tokens + (
            0 if self.states is None else self.states.most_used * self.heads.state_tokens
        )

    @property
    @abstractmethod
    def address_table(self) -> torch.Tensor:
        """Addresses that kernels need of each slot: int64 [slot, 4], see `kv_arena` in
        kernels/attention.h.
        """

    @staticmethod
    @abstractmethod
    def required_positions(max_positions: Sequence[int]) -> int:
        """Return how many positions sequences with these maximum lengths take together."""

    @property
    @abstractmethod
    def resident_tokens(self) -> int:
        """Memory of keys and values, in tokens. On a CPU, positions take none before they are
        written.
        """

    @abstractmethod
    def insert_slots(
        self,
        first_slot: int,
        count: int,
        max_positions: Sequence[int],
        num_filled: Sequence[int],
        expected_sequences: int,
    ) -> None:
        """Insert `count` slots at first_slot. Later slots move behind them.

        max_positions, num_filled: how many positions each sequence may fill, and how many it
        fills after this pass, in the new order. expected_sequences: the largest expected number
        of sequences.
        """

    @abstractmethod
    def remove_slot(self, slot: int, num_active: int, is_finite: bool = True) -> None:
        """Remove a slot. The last active sequence moves into it. is_finite: the slot contains no
        NaN.
        """

    @abstractmethod
    def ensure_capacity(self, num_positions: int, max_positions: int) -> None:
        """Make room for num_positions in each slot. The longest sequence may need up to
        max_positions.
        """

    @abstractmethod
    def set_filled(self, slot: int, num_positions: int) -> None:
        """Record how many positions of a slot hold tokens."""

    def first_token_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return unquantized first keys of all layers, then values, each [KVH, LANES, D]."""
        return []

    def set_text_start(self, slot: int, is_text_start: bool) -> None:  # noqa: B027 - most stores do not ask
        """Mark whether a slot's first position begins a text. Call it before anything is written."""

    def disable_freeing(self, slot: int) -> None:  # noqa: B027 - most stores never free places of a row
        """Keep all positions of a sequence while it grows, because later prompts may reuse any part."""

    def freed_tokens(self, slot: int) -> int:
        """Return the memory that a sequence has freed before its sliding windows, in tokens."""
        return 0

    def freed_tokens_before_pass(self) -> int:
        """Return all sequences' freed memory before the last pass, in tokens, and start the next
        pass.
        """
        return 0

    @abstractmethod
    def free_unused(self, max_tokens: int) -> bool:
        """Keep at most max_tokens of unused memory. Returns whether some was freed."""

    @abstractmethod
    def write(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """Write keys and values [T, KVH, D] of a layer to their slots and positions (both int32
        [T]).
        """

    @abstractmethod
    def read_stored(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sequence's stored vectors [KVH, positions, W], ordered by position."""

    @abstractmethod
    def write_stored(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write vectors [KVH, positions, W] from `read_stored` to the first positions of the first
        slot.
        """

    def read(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return decoded keys and values [KVH, positions, D] of a sequence."""
        keys, values = self.read_stored(layer, slot, num_positions)
        return self.heads.decode_kv(layer, keys, values)

    @abstractmethod
    def slot_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values, each [KVH, capacity, W] in the store's layout."""


def round_up_positions(num_positions: int, block: int = LANES) -> int:
    """Round a number of positions up to whole blocks."""
    return -(-num_positions // block) * block
