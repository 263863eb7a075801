"""The KV cache of the scheduler: the shape of its heads, its size, and the interface of its
stores."""

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
from runner_engine.checkpoints.kept_kv import layer_head_bytes
from runner_engine.checkpoints.pass_memory import most_rows
from runner_engine.kernels import native
from runner_engine.kernels.kv_layers import KvLayer
from runner_engine.kernels.shared_numbers import LANES, MAX_DIM, MAX_GROUP
from runner_engine.kv_cache.formats import KvFormat, format_of
from runner_engine.kv_cache.own_pages import zeros
from runner_engine.kv_cache.rotation import piece_of, rotated
from runner_engine.kv_cache.windows import Window, widest
from runner_engine.memory import free_mib
from runner_engine.recurrent import RowStates, Shapes, state_bytes
from runner_engine.settings.kv_cache import FIRST_TOKENS, KvCache, KvNumbers

SHARE_OF_MEMORY = 0.5  # of free memory is for keys and values; activations need memory, too


@dataclass
class Heads:
    """The shape of stored keys and values: the same in all layers; smaller heads of a layer are
    padded."""

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
    def in_bytes(self) -> bool:
        """Whether some keys or values are stored in fewer bits."""
        return self.kv_cache.in_bytes

    @property
    def in_pages(self) -> bool:
        """Whether a decoding step reads pages: shared ones by many rows."""
        return self.page > 0 and not self.in_bytes

    def formats(self, layer: int) -> tuple[KvFormat, KvFormat]:
        """Return the formats of the keys and of the values in a layer of the store."""
        keys, values = self.kv_cache.of_layer(layer, self.layers)
        return format_of(keys), format_of(values)

    def place_bytes(self, layer: int) -> tuple[int, int]:
        """Return the bytes of a key, and of a value, of one place and one head in a layer of the
        store."""
        return self._place_bytes[layer]

    @cached_property
    def _place_bytes(self) -> list[tuple[int, int]]:
        sizes = []
        for layer in range(self.layers):
            keys, values = (
                one.width(self.dim) * one.stored_dtype(self.dtype).itemsize for one in self.formats(layer)
            )
            sizes.append((keys, values))
        return sizes

    @cached_property
    def kernel_layers(self) -> Any:
        """An array for C of how each layer of the store is stored, and of where it begins in an
        arena."""
        entries, keys_before, values_before = [], 0, 0
        ends = [self.kv_heads * sum(side) for side in zip(*self._place_bytes, strict=True)]
        for layer, (keys, values) in enumerate(self._place_bytes):
            codes = [one.CODE for one in self.formats(layer)]
            plain_before = layer * LANES * self.kv_heads * self.dim * self.dtype.itemsize
            entries.append(
                KvLayer(*codes, keys_before, values_before, self.rotated_piece, *ends, plain_before)
            )
            keys_before += self.kv_heads * keys
            values_before += self.kv_heads * values
        return (KvLayer * max(self.layers, 1))(*entries)

    def kernel_layer(self, layer: int) -> int:
        """Return the address of what C has to know of a layer of the store."""
        self.check_layer(layer)
        return ctypes.addressof(self.kernel_layers) + layer * ctypes.sizeof(KvLayer)

    @property
    def rotated_piece(self) -> int:
        """How many numbers of a head are rotated together; 0: none are."""
        return piece_of(self.dim) if self.kv_cache.rotate else 0

    def turned(self, given: torch.Tensor, kernels: native.Kernels | None = None) -> torch.Tensor:
        """Return queries, keys or values [..., D] rotated where they are stored so; results,
        rotated back."""
        if not self.kv_cache.rotate:
            return given
        if kernels is None:
            return rotated(given)
        turned = given.clone(memory_format=torch.contiguous_format)
        address = native.pointer(turned, self.dtype, *turned.shape)
        kernels("rotate", self.dtype, address, turned.numel() // self.dim, self.dim, self.rotated_piece)
        return turned

    @property
    def stored_windows(self) -> tuple[Window | None, ...]:
        """How far back any token sees in each layer of the store; empty if that is unknown."""
        if not self.stores or not self.windows:
            return self.windows
        readers = [
            [self.windows[at] for at, store in enumerate(self.stores) if store == one]
            for one in range(self.layers)
        ]
        return tuple(None if None in of_store else widest(of_store) for of_store in readers)

    def store_of(self, layer: int) -> int:
        """Return which of the stored layers a layer of the model attends to."""
        return self.stores[layer] if self.stores else layer

    @cached_property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        each = [layer_head_bytes(self.kv_cache, layer, self.layers, self.dim, self.dtype.itemsize)
                for layer in range(self.layers)]  # fmt: skip
        return max(self.kv_heads * sum(each), 1)

    @cached_property
    def first_plain(self) -> int:
        """How many first tokens of a text are stored in the model's numbers beside the others:
        LANES, or 0."""
        return FIRST_TOKENS if self.kv_cache.first_tokens else 0

    @property
    def first_plain_bytes(self) -> int:
        """Their keys and values of one text in all layers."""
        return 2 * self.first_plain * self.layers * self.kv_heads * self.dim * self.dtype.itemsize

    @property
    def first_plain_tokens(self) -> int:
        """The same, as a number of tokens whose keys and values take as much memory."""
        return -(-self.first_plain_bytes // self.bytes_per_token)

    @cached_property
    def state_tokens(self) -> int:
        """The states of one row, as a number of tokens whose keys and values take as much
        memory."""
        return -(-state_bytes(self.states) // self.bytes_per_token)

    @property
    def most_rows(self) -> int:
        """How many rows may decode at once."""
        is_plain = KvNumbers.as_model in (self.kv_cache.keys, self.kv_cache.values)
        return most_rows(self.device.type, self.dtype.itemsize if is_plain else 1)

    def kernel(self, name: str) -> str:
        """Return the name of a kernel that reads or writes keys and values as they are stored."""
        return f"{name}_bytes" if self.in_bytes else name

    def to_stored(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [..., D] of a layer as they are stored [..., W]."""
        of_keys, of_values = self.formats(layer)
        return of_keys.to_rows(keys), of_values.to_rows(values)

    def to_numbers(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return stored keys and values [..., W] of a layer as numbers [..., D] of the model."""
        of_keys, of_values = self.formats(layer)
        return of_keys.to_numbers(keys, self.dim, self.dtype), of_values.to_numbers(
            values, self.dim, self.dtype
        )

    def check_layer(self, layer: int) -> None:
        """Reject the number of a layer for which nothing is stored: C would go beyond the
        memory."""
        if not 0 <= layer < self.layers:
            raise IndexError(f"layer {layer}: keys and values are stored for {self.layers} layers")

    def empty(self, of: KvFormat, *rows: int) -> torch.Tensor:
        """Return zeros [*rows, W] for keys or values of a format: a masked key must still be a
        number."""
        shape, dtype = (*rows, of.width(self.dim)), of.stored_dtype(self.dtype)
        return zeros(math.prod(shape) * dtype.itemsize, self.device).view(dtype).view(shape)

    def empty_layers(
        self, capacity: int, in_large_pages: bool = False
    ) -> tuple[list[list[torch.Tensor]], list[torch.Tensor]]:
        """Return zeros for the keys, and for the values, of all layers [KVH, capacity, W], one
        behind the other.

        Behind all of these are keys, and values, of first tokens that stay in the model's numbers
        [KVH, LANES, D].

        in_large_pages: as `zeros` says.
        """
        found: list[list[torch.Tensor]] = []
        firsts: list[torch.Tensor] = []
        for side in (0, 1):
            sizes = [self.kv_heads * capacity * of_layer[side] for of_layer in self._place_bytes]
            size, ends = sum(sizes) + self.first_plain_bytes // 2, [0, *accumulate(sizes)]
            whole = zeros(size, self.device, in_large_pages)
            pieces = [whole[first:end] for first, end in pairwise(ends)]
            kinds = [self.formats(layer)[side] for layer in range(self.layers)]
            found.append(
                [
                    piece.view(kind.stored_dtype(self.dtype)).view(
                        self.kv_heads, capacity, kind.width(self.dim)
                    )
                    for piece, kind in zip(pieces, kinds, strict=True)
                ]
            )
            if self.first_plain:
                firsts += (
                    whole[ends[-1] :]
                    .view(self.dtype)
                    .view(self.layers, self.kv_heads, LANES, self.dim)
                    .unbind()
                )
        return found, firsts


def kernels_for(heads: Heads) -> native.Kernels | None:
    """Return the kernels if they are available and support such heads on such a device."""
    has_format = heads.dtype in native.FORMATS
    has_shape = heads.group <= MAX_GROUP and heads.dim <= MAX_DIM and heads.dim % LANES == 0
    is_here = heads.device.type == "cpu" and not heads.by_sdpa
    return native.kernels() if has_format and has_shape and is_here else None


def room_tokens(heads: Heads, held: int = 0) -> int:
    """Return for how many tokens' keys and values there is memory, those that are stored already
    included."""
    return int((free_mib(heads.device) * MIB / heads.bytes_per_token + held) * SHARE_OF_MEMORY)


def stores_of(tensors: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[int, ...]:
    """Return for each layer which of those that store keys and values it attends to; nothing if
    each stores its own.

    A layer that attends to those of another one is given the same tensors.
    """
    places = [(key.data_ptr(), value.data_ptr()) for key, value in tensors]
    first = list(dict.fromkeys(places))
    return tuple(first.index(place) for place in places) if len(first) < len(places) else ()


class OwnKv(ABC):
    """The rows' own keys and values, by slot: a place for each token. Active rows have the first
    slots."""

    heads: Heads
    kernels: native.Kernels | None = None
    states: RowStates | None = (
        None  # the rows' states, if layers carry some: they move with the keys and values
    )

    def insert(self, at: int, count: int, needs: Sequence[int], held: Sequence[int], most: int) -> None:
        """Insert rows, as `enter`, with states that stand for no token."""
        self.enter(at, count, needs, held, most)
        if self.states is not None:
            self.states.enter(at, count, max(most, len(needs)))

    def remove(self, slot: int, active: int, is_sound: bool = True) -> None:
        """Remove a row, as `leave`, with its states."""
        self.leave(slot, active, is_sound)
        if self.states is not None:
            self.states.leave(slot, active)

    @property
    def held_with_states(self) -> int:
        """The memory that keys, values and states take, in tokens."""
        return self.held + (0 if self.states is None else self.states.most_used * self.heads.state_tokens)

    @property
    @abstractmethod
    def table(self) -> torch.Tensor:
        """The addresses that the kernels need of each row: int64 [slot, 4], see `kv_arena` in
        kernels/attention.h."""

    @staticmethod
    @abstractmethod
    def cost(needs: Sequence[int]) -> int:
        """Return how many places rows take together that may fill so many each."""

    @property
    @abstractmethod
    def held(self) -> int:
        """The memory it takes, in tokens; on a CPU, places that were never written take none."""

    @abstractmethod
    def enter(self, at: int, count: int, needs: Sequence[int], held: Sequence[int], most: int) -> None:
        """Insert `count` rows at slot `at`; the rows that were there move behind them.

        needs, held: how many places each row may fill, and how many it fills after this pass, in
        the new order. most: the largest expected number of rows.
        """

    @abstractmethod
    def leave(self, slot: int, active: int, is_sound: bool = True) -> None:
        """Remove a row; the last active row moves into its slot. is_sound: the row has no NaN in
        its slot."""

    @abstractmethod
    def lengthen(self, places: int, need: int) -> None:
        """Make room for so many places in each slot; the longest row may need up to `need`."""

    @abstractmethod
    def fill(self, slot: int, places: int) -> None:
        """Note how many places of a slot hold tokens."""

    def first_tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values, each [KVH, LANES, D], of first tokens in the
        model's numbers."""
        return []

    def set_beginning(self, slot: int, is_beginning: bool) -> None:  # noqa: B027 - most stores do not ask
        """Note, before anything is written, whether a row's first place has the first token of its
        text."""

    def keep_whole(self, slot: int) -> None:  # noqa: B027 - most stores never free places of a row
        """Free nothing of a row while it grows: later prompts may begin with a part of it."""

    def freed(self, slot: int) -> int:
        """Return how many tokens the memory would have room for that a row has given back behind
        its windows."""
        return 0

    def freed_before_pass(self) -> int:
        """Return the same of all rows, before the last pass; the next one begins."""
        return 0

    @abstractmethod
    def keep_spare(self, most: int) -> bool:
        """Keep at most so much unused memory, in tokens; return whether some was freed."""

    @abstractmethod
    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor
    ) -> None:
        """Put keys and values [T, KVH, D] of a layer into their slots and places (both int32
        [T])."""

    @abstractmethod
    def stored(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, W] of a row as they are stored, place by place."""

    @abstractmethod
    def put_stored(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values [KVH, places, W] that `stored` returned into the first places of the
        first slot."""

    def read(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, D] of a row."""
        keys, values = self.stored(layer, slot, places)
        return self.heads.to_numbers(layer, keys, values)

    @abstractmethod
    def tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values, each [KVH, capacity, W] in the store's layout."""


def rounded(places: int, block: int = LANES) -> int:
    """Return a number of places rounded up to whole blocks."""
    return -(-places // block) * block
