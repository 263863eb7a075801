"""Frees the KV cache memory of positions outside all sliding windows.

A sequence's keys and values lie in memory pages of their own, ordered by position. So
pages before the window can be freed one by one, and everything else stays in place:
kernels use the same addresses, and never read freed positions again.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Protocol

from runner_engine.checkpoints.kv_size import REWOUND, compute_max_window_positions
from runner_engine.kernels.c_interface import LANES
from runner_engine.kv_cache.sliding_windows import Window

PAGE = mmap.PAGESIZE


class KvShape(Protocol):
    """Dimensions of a KV store: layers, heads, bytes per position and sliding windows."""

    layers: int
    kv_heads: int

    def get_position_nbytes(self, layer: int) -> tuple[int, int]:
        """Return the bytes of one key vector and of one value vector in a layer."""

    @property
    def widest_windows(self) -> Sequence[Window | None]:
        """Sliding window of each layer in the KV store. Empty if windows are unknown."""


def can_free_positions(kv_shape: KvShape) -> bool:
    """Whether some layers have sliding windows and the system can free individual memory pages."""
    return any(window is not None for window in kv_shape.widest_windows) and sys.platform == "linux"


def group_layers_by_window_size(kv_shape: KvShape) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for layer, window in enumerate(kv_shape.widest_windows):
        if window is not None:
            layers.setdefault(window.size, []).append(layer)
    return layers


def create_resident_token_counter(kv_shape: KvShape) -> Callable[[int], int]:
    """Return a function that computes how many tokens of a sequence stay in memory, given its length.

    Layers with a sliding window keep only the window and a few positions more.
    """
    if not can_free_positions(kv_shape):
        return int
    sizes = {
        size: sum_position_nbytes(kv_shape, layers)
        for size, layers in group_layers_by_window_size(kv_shape).items()
    }
    whole = sum_position_nbytes(kv_shape, range(kv_shape.layers))
    without = whole - sum(sizes.values())

    def count_resident_tokens(positions: int) -> int:
        in_windows = sum(
            of_layers * compute_max_window_positions(size, positions) for size, of_layers in sizes.items()
        )
        return -(-(without * positions + in_windows) // whole)

    return count_resident_tokens


def compute_page_aligned_positions(kv_shape: KvShape) -> int:
    """Return the smallest number of positions that fills complete memory pages in every layer.

    The result is a multiple of LANES.
    """
    sizes = {size for layer in range(kv_shape.layers) for size in kv_shape.get_position_nbytes(layer)}
    return math.lcm(*(PAGE // math.gcd(size, PAGE) for size in sizes), LANES)


def sum_position_nbytes(kv_shape: KvShape, layers: Iterable[int]) -> int:
    return sum(sum(kv_shape.get_position_nbytes(layer)) for layer in layers)


class FreedPositions:
    """Frees a sequence's oldest positions in layers with sliding windows, and counts the freed memory."""

    def __init__(self, kv_shape: KvShape, addresses: Sequence[int], capacity: int) -> None:
        """Prepare to free a sequence's KV memory.

        addresses: memory addresses of the keys and of the values [layer, head, position], each with room for
        `capacity` positions.
        """
        self.stored, self.addresses, self.capacity = kv_shape, addresses, capacity
        self.layers = group_layers_by_window_size(kv_shape)
        # by the window's size: the first place that is there
        self.first = dict.fromkeys(self.layers, 0)
        self.tokens = 0  # as many, in all layers, as the freed memory has room for
        self.before = 0  # the same when the last pass began
        self._bytes = {size: sum_position_nbytes(kv_shape, layers) for size, layers in self.layers.items()}
        self._all_bytes = sum_position_nbytes(kv_shape, range(kv_shape.layers))

    def free_before_window(self, num_written: int) -> None:
        """Free positions outside the layers' sliding windows.

        Does nothing if the system call would free little memory.
        """
        for size, first in self.first.items():
            if num_written - first > compute_max_window_positions(size, num_written):
                self._free_pages(size, num_written - size - REWOUND)

    def _free_pages(self, window_size: int, end_position: int) -> None:
        start, heads, give_back = self.first[window_size], self.stored.kv_heads, _load_madvise()
        most = max(
            one for layer in self.layers[window_size] for one in self.stored.get_position_nbytes(layer)
        )
        whole = end_position * most // PAGE * PAGE // most // LANES * LANES
        if whole <= start:
            return
        self.first[window_size] = whole
        freed = sum(self._bytes[one] * first for one, first in self.first.items())
        self.tokens = freed // self._all_bytes
        first_bytes = list(self.addresses)
        for layer in range(self.stored.layers):
            for side, place_bytes in enumerate(self.stored.get_position_nbytes(layer)):
                for head in range(heads if layer in self.layers[window_size] else 0):
                    first_byte = first_bytes[side] + head * self.capacity * place_bytes
                    page = max(-(-first_byte // PAGE), (first_byte + start * place_bytes) // PAGE) * PAGE
                    last = (first_byte + end_position * place_bytes) // PAGE * PAGE
                    if page < last:
                        give_back(page, last - page, mmap.MADV_DONTNEED)
                first_bytes[side] += heads * self.capacity * place_bytes


@cache
def _load_madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
