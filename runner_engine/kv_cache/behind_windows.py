"""Memory of the places that no later token sees: in layers with a window it goes back to the system
while a row grows.

A row's keys and values lie in memory pages of their own, by place. So what is before the window can
be freed page by page, and everything else stays where it is: kernels read and write by the same
addresses, and never read there again.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, Protocol

from runner_engine.checkpoints.kept_kv import REWOUND, kept_places
from runner_engine.kernels.shared_numbers import LANES
from runner_engine.kv_cache.windows import Window

PAGE = mmap.PAGESIZE


class Stored(Protocol):
    """The shape of what is stored: as Heads."""

    layers: int
    kv_heads: int

    def place_bytes(self, layer: int) -> tuple[int, int]:
        """Return the bytes of a key, and of a value, of one place and one head in a layer."""

    @property
    def stored_windows(self) -> Sequence[Window | None]:
        """Return how far back any token sees in each layer of the store; empty if that is
        unknown."""


def frees_places(stored: Stored) -> bool:
    """Whether there are layers with a window, and the system takes back pages of memory that stays
    mapped."""
    return any(window is not None for window in stored.stored_windows) and sys.platform == "linux"


def window_sizes(stored: Stored) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for layer, window in enumerate(stored.stored_windows):
        if window is not None:
            layers.setdefault(window.size, []).append(layer)
    return layers


def kept_tokens(stored: Stored) -> Callable[[int], int]:
    """Return a function: as many tokens, in all layers, as the memory of so many places of a row
    has room for.

    Layers with a window keep no more of them than the window and a few.
    """
    if not frees_places(stored):
        return int
    sizes = {size: bytes_of(stored, layers) for size, layers in window_sizes(stored).items()}
    whole = bytes_of(stored, range(stored.layers))
    without = whole - sum(sizes.values())

    def kept(places: int) -> int:
        in_windows = sum(of_layers * kept_places(size, places) for size, of_layers in sizes.items())
        return -(-(without * places + in_windows) // whole)

    return kept


def page_places(stored: Stored) -> int:
    """Return a number of places, a multiple of LANES, that takes whole pages in each head."""
    sizes = {size for layer in range(stored.layers) for size in stored.place_bytes(layer)}
    return math.lcm(*(PAGE // math.gcd(size, PAGE) for size in sizes), LANES)


def bytes_of(stored: Stored, layers: Iterable[int]) -> int:
    """Return the bytes of a key and a value of one place and one head, in all of these layers."""
    return sum(sum(stored.place_bytes(layer)) for layer in layers)


class FreedPlaces:
    """Which places of one row are freed: the first ones, in layers with a window."""

    def __init__(self, stored: Stored, addresses: Sequence[int], capacity: int) -> None:
        """addresses: of the keys and of the values [layer, head, place], each of so many places."""
        self.stored, self.addresses, self.capacity = stored, addresses, capacity
        self.layers = window_sizes(stored)
        # by the window's size: the first place that is there
        self.first = dict.fromkeys(self.layers, 0)
        self.tokens = 0  # as many, in all layers, as the freed memory has room for
        self.before = 0  # the same when the last pass began
        self._bytes = {size: bytes_of(stored, layers) for size, layers in self.layers.items()}
        self._all_bytes = bytes_of(stored, range(stored.layers))

    def free_behind(self, places: int) -> None:
        """Free what no token sees once so many places are written, where that is enough to be worth
        it."""
        for size, first in self.first.items():
            if places - first > kept_places(size, places):
                self._free(size, places - size - REWOUND)

    def _free(self, size: int, end: int) -> None:
        """Free the places before `end`, in whole pages."""
        start, heads, give_back = self.first[size], self.stored.kv_heads, _madvise()
        most = max(one for layer in self.layers[size] for one in self.stored.place_bytes(layer))
        whole = end * most // PAGE * PAGE // most // LANES * LANES
        if whole <= start:
            return
        self.first[size] = whole
        freed = sum(self._bytes[one] * first for one, first in self.first.items())
        self.tokens = freed // self._all_bytes
        first_bytes = list(self.addresses)
        for layer in range(self.stored.layers):
            for side, place_bytes in enumerate(self.stored.place_bytes(layer)):
                for head in range(heads if layer in self.layers[size] else 0):
                    first_byte = first_bytes[side] + head * self.capacity * place_bytes
                    page = max(-(-first_byte // PAGE), (first_byte + start * place_bytes) // PAGE) * PAGE
                    last = (first_byte + end * place_bytes) // PAGE * PAGE
                    if page < last:
                        give_back(page, last - page, mmap.MADV_DONTNEED)
                first_bytes[side] += heads * self.capacity * place_bytes


@cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
