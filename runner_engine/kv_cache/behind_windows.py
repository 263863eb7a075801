"""Memory of the places that no later token sees: in layers with a window it goes back to the system while a row grows.

A row's keys and values lie in memory pages of their own, by place. So what is before the window can be freed page by
page, and everything else stays where it is: kernels read and write by the same addresses, and never read there again.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable, Sequence
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

    @property
    def place_bytes(self) -> int:
        """Return the bytes of a key, or a value, of one place and one head."""

    @property
    def stored_windows(self) -> Sequence[Window | None]:
        """Return how far back any token sees in each layer of the store; empty if that is unknown."""


def frees_places(stored: Stored) -> bool:
    """Whether there are layers with a window, and the system takes back pages of memory that stays mapped."""
    return any(window is not None for window in stored.stored_windows) and sys.platform == "linux"


def window_sizes(stored: Stored) -> dict[int, list[int]]:
    """Return the layers with each size of window."""
    layers: dict[int, list[int]] = {}
    for layer, window in enumerate(stored.stored_windows):
        if window is not None:
            layers.setdefault(window.size, []).append(layer)
    return layers


def kept_tokens(stored: Stored) -> Callable[[int], int]:
    """Return a function: as many tokens, in all layers, as the memory of so many places of a row has room for.

    Layers with a window keep no more of them than the window and a few.
    """
    if not frees_places(stored):
        return int
    sizes = {size: len(layers) for size, layers in window_sizes(stored).items()}
    count, without = stored.layers, stored.layers - sum(sizes.values())

    def kept(places: int) -> int:
        in_windows = sum(layers * kept_places(size, places) for size, layers in sizes.items())
        return -(-(without * places + in_windows) // count)

    return kept


def page_places(stored: Stored) -> int:
    """Return a number of places, a multiple of LANES, that takes whole pages in each head."""
    places = PAGE // math.gcd(stored.place_bytes, PAGE)
    return math.lcm(places, LANES)


class FreedPlaces:
    """Which places of one row are freed: the first ones, in layers with a window."""

    def __init__(self, stored: Stored, addresses: Sequence[int], capacity: int) -> None:
        """addresses: of the keys and of the values [layer, head, place], each of so many places."""
        self.stored, self.addresses, self.capacity = stored, addresses, capacity
        self.layers = window_sizes(stored)
        self.first = dict.fromkeys(self.layers, 0)  # by the window's size: the first place that is there
        self.tokens = 0  # as many, in all layers, as the freed memory has room for
        self.before = 0  # the same when the last pass began

    def free_behind(self, places: int) -> None:
        """Free what no token sees once so many places are written, where that is enough to be worth it."""
        for size, first in self.first.items():
            if places - first > kept_places(size, places):
                self._free(size, places - size - REWOUND)

    def _free(self, size: int, end: int) -> None:
        """Free the places before `end`, in whole pages."""
        place_bytes, heads = self.stored.place_bytes, self.stored.kv_heads
        of_head = self.capacity * place_bytes
        start, end = self.first[size] * place_bytes // PAGE * PAGE, end * place_bytes // PAGE * PAGE
        if end <= start:
            return
        self.first[size] = end // place_bytes // LANES * LANES
        freed = sum(len(self.layers[one]) * first for one, first in self.first.items())
        self.tokens = freed // self.stored.layers
        give_back = _madvise()
        for layer in self.layers[size]:
            for address in self.addresses:
                for head in range(layer * heads, (layer + 1) * heads):
                    first_byte = address + head * of_head
                    page = max(-(-first_byte // PAGE) * PAGE, (first_byte + start) // PAGE * PAGE)
                    last = (first_byte + end) // PAGE * PAGE
                    if page < last:
                        give_back(page, last - page, mmap.MADV_DONTNEED)


@cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
