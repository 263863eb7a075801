"""The KV cache of the scheduler: what it is made for, how much there is room for, and what a store of rows can do."""

from __future__ import annotations

import math
import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runner.core.machine import MIB
from runner.engines.local.kernels import native
from runner.engines.local.memory import free_mib
from runner.engines.local.windows import Window

SHARE_OF_MEMORY = 0.5  # of what is free, for keys and values; activations need room, too
# a row may need far more places than it comes to fill: they are no promise that the system must be able to keep
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass
class Heads:
    """The shape of attention as it is stored: the same in all layers; what is less in one of them is filled up."""

    layers: int
    kv_heads: int
    group: int  # query heads for each key-value head
    dim: int
    dtype: torch.dtype
    device: torch.device
    windows: tuple[Window | None, ...] = ()  # of each layer, None = it sees all; empty where they are not known
    plain_softmax: bool = True  # no layer has a cap or sinks

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.dim * self.dtype.itemsize

    def empty(self, *rows: int) -> torch.Tensor:
        """Return zeros [*rows, D], because a masked key must still be a number."""
        shape = (*rows, self.dim)
        size = math.prod(shape) * self.dtype.itemsize
        if self.device.type != "cpu" or not size:
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        # pages of its own, which cost nothing until they are written, and go back when the tensor does
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        return torch.frombuffer(pages, dtype=self.dtype).view(shape)


def room_tokens(heads: Heads, held: int = 0) -> int:
    """Return how many tokens' keys and values memory has room for, with those that are held already."""
    return int((free_mib(heads.device) * MIB / heads.bytes_per_token + held) * SHARE_OF_MEMORY)


class OwnKv(ABC):
    """What rows hold of their own, by slot: a place a token. Rows that are on their way have the first slots."""

    heads: Heads
    kernels: native.Kernels | None = None

    @property
    @abstractmethod
    def table(self) -> torch.Tensor:
        """What the kernels know of each row: int64 [slot, 3], see `kv_arena` in kernels/attention.h."""

    @staticmethod
    @abstractmethod
    def cost(needs: Sequence[int]) -> int:
        """Return how many places it takes to have rows on their way that may fill so many each."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Tokens' worth of memory that it takes; on a CPU, what was never written takes none."""

    @abstractmethod
    def enter(self, at: int, count: int, needs: Sequence[int], held: Sequence[int], most: int) -> None:
        """Let so many rows in, from slot `at` on; those that were there go behind them.

        needs, held: what all rows may fill and what they hold when this pass is over, in their new order. most: how
        many rows may come to be there, as far as is known.
        """

    @abstractmethod
    def leave(self, slot: int, active: int, is_sound: bool = True) -> None:
        """Let a row out, into whose slot the last of the active ones goes; is_sound: it has left no NaN behind."""

    @abstractmethod
    def lengthen(self, places: int, need: int) -> None:
        """Have so many places in each slot; the row that wants them may come to need more."""

    @abstractmethod
    def fill(self, slot: int, places: int) -> None:
        """Note how many places of a slot hold tokens."""

    @abstractmethod
    def keep_spare(self, most: int) -> bool:
        """Keep no more tokens' worth of memory than these that no row uses; return whether some was let go."""

    @abstractmethod
    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor
    ) -> None:
        """Put keys and values [T, KVH, D] of a layer into their slots and places (both int32 [T])."""

    @abstractmethod
    def read(self, layer: int, slot: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [KVH, places, D] of a row."""

    @abstractmethod
    def tensors(self, slot: int) -> list[torch.Tensor]:
        """Return keys of all layers, then values, each [KVH, capacity, D] and in the order in which they lie."""


def rounded(places: int) -> int:
    """Return how many places hold so many tokens: whole blocks."""
    return -(-places // native.LANES) * native.LANES
