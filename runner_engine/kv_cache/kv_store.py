"""KV cache for continuous batching: tensor specification, memory size, and the interface of KV stores."""

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
from runner_engine.checkpoints.kv_size import compute_layer_head_nbytes
from runner_engine.checkpoints.pass_memory import compute_max_sequences
from runner_engine.checkpoints.prompt_cache_size import SEQUENCE_SHARE
from runner_engine.kernels import native
from runner_engine.kernels.c_interface import LANES, MAX_DIM, MAX_GROUP
from runner_engine.kernels.kv_layers import KvLayer
from runner_engine.kv_cache.formats import KvFormat, load_kv_format
from runner_engine.kv_cache.memory_pages import allocate_zeros
from runner_engine.kv_cache.rotation import apply_hadamard_rotation, rotation_block_size
from runner_engine.kv_cache.sliding_windows import Window, widest_window
from runner_engine.memory import free_mib
from runner_engine.recurrent import SequenceStates, Shapes, recurrent_state_nbytes
from runner_engine.settings.kv_cache import FIRST_TOKENS, KvCache, KvPrecision


@dataclass
class KvCacheSpec:
    """Shape, dtype and format of stored keys and values.

    All layers have equal shapes; smaller heads are padded.
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
        """Whether decoding uses paged attention, in which sequences can share pages."""
        return self.page > 0 and not self.is_quantized

    def get_layer_kv_formats(self, layer: int) -> tuple[KvFormat, KvFormat]:
        """Return the storage formats of keys and of values in a layer of the KV store."""
        keys, values = self.kv_cache.get_layer_precisions(layer, self.layers)
        return load_kv_format(keys), load_kv_format(values)

    def get_position_nbytes(self, layer: int) -> tuple[int, int]:
        return self._kv_nbytes_per_position_by_layer[layer]

    @cached_property
    def _kv_nbytes_per_position_by_layer(self) -> list[tuple[int, int]]:
        sizes = []
        for layer in range(self.layers):
            keys, values = (
                one.stored_width(self.dim) * one.stored_dtype(self.dtype).itemsize
                for one in self.get_layer_kv_formats(layer)
            )
            sizes.append((keys, values))
        return sizes

    @cached_property
    def kv_layer_structs_for_kernels(self) -> Any:
        """C array with the storage format and the arena offset of each layer."""
        entries, keys_before, values_before = [], 0, 0
        ends = [
            self.kv_heads * sum(side) for side in zip(*self._kv_nbytes_per_position_by_layer, strict=True)
        ]
        for layer, (keys, values) in enumerate(self._kv_nbytes_per_position_by_layer):
            codes = [one.CODE for one in self.get_layer_kv_formats(layer)]
            plain_before = layer * LANES * self.kv_heads * self.dim * self.dtype.itemsize
            entries.append(
                KvLayer(*codes, keys_before, values_before, self.rotation_size, *ends, plain_before)
            )
            keys_before += self.kv_heads * keys
            values_before += self.kv_heads * values
        return (KvLayer * max(self.layers, 1))(*entries)

    def get_kernel_layer_address(self, layer: int) -> int:
        self.check_layer(layer)
        return ctypes.addressof(self.kv_layer_structs_for_kernels) + layer * ctypes.sizeof(KvLayer)

    @property
    def rotation_size(self) -> int:
        """Number of head elements that the Hadamard rotation mixes, or 0 without rotation."""
        return rotation_block_size(self.dim) if self.kv_cache.rotate else 0

    def apply_hadamard_rotation_if_enabled(
        self, heads: torch.Tensor, kernels: native.Kernels | None = None
    ) -> torch.Tensor:
        """Apply the Hadamard rotation to heads [..., D] if the KV format uses it.

        A second rotation restores the heads.
        """
        if not self.kv_cache.rotate:
            return heads
        if kernels is None:
            return apply_hadamard_rotation(heads)
        turned = heads.clone(memory_format=torch.contiguous_format)
        address = native.get_tensor_address(turned, self.dtype, *turned.shape)
        kernels("rotate", self.dtype, address, turned.numel() // self.dim, self.dim, self.rotation_size)
        return turned

    @property
    def widest_windows(self) -> tuple[Window | None, ...]:
        """Widest sliding window for each layer of the KV store. Empty if windows are unknown."""
        if not self.stores or not self.windows:
            return self.windows
        readers = [
            [self.windows[at] for at, store in enumerate(self.stores) if store == one]
            for one in range(self.layers)
        ]
        return tuple(None if None in of_store else widest_window(of_store) for of_store in readers)

    def store_layer(self, layer: int) -> int:
        """Return the index of the KV store layer that holds the keys of a model layer."""
        return self.stores[layer] if self.stores else layer

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        each = [compute_layer_head_nbytes(self.kv_cache, layer, self.layers, self.dim, self.dtype.itemsize)
                for layer in range(self.layers)]  # fmt: skip
        return max(self.kv_heads * sum(each), 1)

    @cached_property
    def num_unquantized_first(self) -> int:
        """Number of tokens at the start of a prompt that are also stored unquantized. 0 if disabled."""
        return FIRST_TOKENS if self.kv_cache.first_tokens else 0

    @property
    def first_tokens_nbytes(self) -> int:
        """Bytes of one prompt's unquantized first tokens, in all layers."""
        return 2 * self.num_unquantized_first * self.layers * self.kv_heads * self.dim * self.dtype.itemsize

    @property
    def first_tokens_cost(self) -> int:
        """Memory of one prompt's unquantized first tokens, converted to KV cache tokens."""
        return -(-self.first_tokens_nbytes // self.bytes_per_token)

    @cached_property
    def state_tokens(self) -> int:
        """Memory of one sequence's recurrent states, converted to KV cache tokens."""
        return -(-recurrent_state_nbytes(self.states) // self.bytes_per_token)

    @property
    def max_sequences(self) -> int:
        """Maximum number of sequences in a decoding batch."""
        is_plain = KvPrecision.as_model in (self.kv_cache.keys, self.kv_cache.values)
        return compute_max_sequences(self.device.type, self.dtype.itemsize if is_plain else 1)

    def kernel_name(self, base_name: str) -> str:
        return f"{base_name}_bytes" if self.is_quantized else base_name

    def encode_kv(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_keys, of_values = self.get_layer_kv_formats(layer)
        return of_keys.encode_kv(keys), of_values.encode_kv(values)

    def decode_kv(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert stored vectors [..., W] of a layer to keys and values [..., D] in the model's
        dtype.
        """
        of_keys, of_values = self.get_layer_kv_formats(layer)
        return of_keys.decode_kv(keys, self.dim, self.dtype), of_values.decode_kv(
            values, self.dim, self.dtype
        )

    def check_layer(self, layer: int) -> None:
        """Raise IndexError for a layer without stored keys, because C code would read outside the memory."""
        if not 0 <= layer < self.layers:
            raise IndexError(f"layer {layer} does not exist: the KV cache has {self.layers} layers")

    def allocate_zero_kv_vectors(self, kv_format: KvFormat, *dims: int) -> torch.Tensor:
        """Allocate zeros [*dims, W] for keys or values.

        Masked positions need finite keys, so the memory must not be uninitialized.
        """
        shape, dtype = (*dims, kv_format.stored_width(self.dim)), kv_format.stored_dtype(self.dtype)
        return allocate_zeros(math.prod(shape) * dtype.itemsize, self.device).view(dtype).view(shape)

    def allocate_kv_layers(
        self, capacity: int, use_large_pages: bool = False
    ) -> tuple[list[list[torch.Tensor]], list[torch.Tensor]]:
        """Allocate contiguous zeros [KVH, capacity, W] for the keys and values of all layers.

        Unquantized keys and values of first tokens [KVH, LANES, D] follow. use_large_pages: as in
        `allocate_zeros`.
        """
        found: list[list[torch.Tensor]] = []
        firsts: list[torch.Tensor] = []
        for side in (0, 1):
            sizes = [
                self.kv_heads * capacity * of_layer[side]
                for of_layer in self._kv_nbytes_per_position_by_layer
            ]
            size, ends = sum(sizes) + self.first_tokens_nbytes // 2, [0, *accumulate(sizes)]
            whole = allocate_zeros(size, self.device, use_large_pages)
            pieces = [whole[first:end] for first, end in pairwise(ends)]
            kinds = [self.get_layer_kv_formats(layer)[side] for layer in range(self.layers)]
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


def get_attention_kernels_if_supported(kv_spec: KvCacheSpec) -> native.Kernels | None:
    """Return the C kernels, or None if they are unavailable or do not support these heads or this device."""
    has_format = kv_spec.dtype in native.FORMATS
    has_shape = kv_spec.group <= MAX_GROUP and kv_spec.dim <= MAX_DIM and kv_spec.dim % LANES == 0
    is_here = kv_spec.device.type == "cpu" and not kv_spec.by_sdpa
    return native.load_kernels() if has_format and has_shape and is_here else None


def kv_capacity_tokens(kv_spec: KvCacheSpec, stored_tokens: int = 0) -> int:
    """Return the KV cache's capacity in tokens, including tokens that are already stored."""
    return int((free_mib(kv_spec.device) * MIB / kv_spec.bytes_per_token + stored_tokens) * SEQUENCE_SHARE)


def map_layers_to_kv_store_layers(
    keys_and_values: list[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[int, ...]:
    """Map each model layer to the index of the KV store layer that it reads.

    Empty if every layer stores separate keys.

    A layer that attends to another layer's keys and values receives the same tensors.
    """
    places = [(key.data_ptr(), value.data_ptr()) for key, value in keys_and_values]
    first = list(dict.fromkeys(places))
    return tuple(first.index(place) for place in places) if len(first) < len(places) else ()


class KvStore(ABC):
    """Keys and values of all sequences, by slot and position. Active sequences occupy the first slots."""

    heads: KvCacheSpec
    kernels: native.Kernels | None = None
    states: SequenceStates | None = (
        None  # the rows' states, if layers carry some: they move with the keys and values
    )

    def insert_slots_with_empty_states(
        self,
        first_slot: int,
        count: int,
        max_positions: Sequence[int],
        num_filled: Sequence[int],
        expected_sequences: int,
    ) -> None:
        """Insert slots with empty recurrent states. See `insert_slots` for the parameters."""
        self.insert_slots(first_slot, count, max_positions, num_filled, expected_sequences)
        if self.states is not None:
            self.states.insert_slots(first_slot, count, max(expected_sequences, len(max_positions)))

    def remove_sequence(self, slot: int, num_active: int, has_no_nan: bool = True) -> None:
        """Remove a sequence's slot and recurrent states. See `remove_slot` for the parameters."""
        self.remove_slot(slot, num_active, has_no_nan)
        if self.states is not None:
            self.states.remove_slot(slot, num_active)

    @property
    def resident_tokens_with_states(self) -> int:
        """Memory in use by keys, values and recurrent states, converted to KV cache tokens."""
        return self.resident_tokens + (
            0 if self.states is None else self.states.most_used * self.heads.state_tokens
        )

    @property
    @abstractmethod
    def address_table(self) -> torch.Tensor:
        """Table of memory addresses per slot, for the C kernels: int64 [slot, 4].

        Each row is a `kv_arena` in kernels/attention.h.
        """

    @staticmethod
    @abstractmethod
    def count_required_positions(max_positions: Sequence[int]) -> int:
        """Return the number of positions that a KV store allocates for sequences with these maximum
        lengths.
        """

    @property
    @abstractmethod
    def resident_tokens(self) -> int:
        """Memory in use by keys and values, in tokens.

        On a CPU, unwritten positions take no memory.
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
        """Insert `count` empty slots before the slot with index first_slot.

        max_positions, num_filled: how many positions each sequence may fill, and how many it
        fills after this pass, in the new order. expected_sequences: the largest expected number
        of sequences.
        """

    @abstractmethod
    def remove_slot(self, slot: int, num_active: int, has_no_nan: bool = True) -> None:
        """Remove a slot. The last active sequence moves to the free slot.

        has_no_nan: the slot contains no NaN, so that its memory can be reused.
        """

    @abstractmethod
    def ensure_capacity(self, num_positions: int, max_positions: int) -> None:
        """Enlarge each slot to num_positions, if necessary.

        max_positions: the final length of the longest sequence.
        """

    @abstractmethod
    def set_num_filled(self, slot: int, num_positions: int) -> None:
        """Record the number of stored positions in a slot."""

    def get_first_token_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return the unquantized keys of first tokens for each layer, followed by the values for each layer.

        Each tensor is [KVH, LANES, D].
        """
        return []

    def set_text_start(self, slot: int, is_text_start: bool) -> None:  # noqa: B027 - most stores do not ask
        """Mark whether a slot starts at the beginning of a prompt.

        Must be called before anything is written to the slot.
        """

    def disable_freeing(self, slot: int) -> None:  # noqa: B027 - most stores never free places of a row
        """Keep all positions of a sequence in memory, because later prompts may reuse its keys."""

    def count_freed_tokens(self, slot: int) -> int:
        """Return the memory, in tokens, that was freed because a sequence's sliding windows moved on."""
        return 0

    def pop_freed_tokens(self) -> int:
        """Return the memory, in tokens, that all sequences freed before the last forward pass.

        Also starts the count of the next pass.
        """
        return 0

    @abstractmethod
    def free_unused(self, max_tokens: int) -> bool:
        """Free unused memory beyond max_tokens. Returns whether any memory was freed."""

    @abstractmethod
    def write(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """Write keys and values [T, KVH, D] of a layer to the given slots and positions (both int32 [T])."""

    @abstractmethod
    def read_stored_kv(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a sequence's stored vectors [KVH, positions, W], in order of position."""

    @abstractmethod
    def write_stored(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write stored vectors [KVH, positions, W] to the first positions of the first slot."""

    def read(self, layer: int, slot: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the decoded keys and values [KVH, positions, D] of a sequence."""
        keys, values = self.read_stored_kv(layer, slot, num_positions)
        return self.heads.decode_kv(layer, keys, values)

    @abstractmethod
    def get_slot_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return the stored keys of each layer, followed by the values of each layer: [KVH, capacity, W].

        The vectors have the layout of the KV store.
        """


def round_up_positions(num_positions: int, block_size: int = LANES) -> int:
    """Round a number of positions up to a multiple of the block size."""
    return -(-num_positions // block_size) * block_size
