"""Storage formats of the KV cache. `generation.kv_cache` selects a format, and each format is a module.

A stored vector is the data of one position and one head: numbers, or bytes with their
scales. The kernels keep vectors in blocks of positions (kernels/attention.h), and a
format supports both layouts.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Protocol, cast

import torch

from runner_engine.settings.kv_cache import KvPrecision

FORMATS = {numbers: numbers.value for numbers in KvPrecision}


class KvFormat(Protocol):
    """Interface that every KV format module implements."""

    CODE: int  # what the kernels call it

    def stored_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype of stored elements, for a model with this dtype."""

    def stored_width(self, head_dim: int) -> int:
        """Return the number of stored elements for one head's vector."""

    def encode_kv(self, values: torch.Tensor) -> torch.Tensor:
        """Convert keys or values [..., D] to stored vectors [..., W]."""

    def decode_kv(self, stored: torch.Tensor, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
        """Convert stored vectors [..., W] back to keys or values [..., D]."""

    def read_kv_blocks(
        self, arena: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool
    ) -> torch.Tensor:
        """Convert an arena from the kernels' block layout to vectors [KVH, positions, W].

        pair_size: how many dimensions of a key, or positions of a value, are adjacent.
        """

    def write_kv_blocks(
        self, arena: torch.Tensor, stored: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool
    ) -> None:
        """Write vectors [KVH, positions, W] to an arena in the kernels' block layout.

        Only whole blocks are written.
        """


@cache
def load_kv_format(precision: KvPrecision) -> KvFormat:
    return cast(KvFormat, import_module(f"{__name__}.{FORMATS[precision]}"))
