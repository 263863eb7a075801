"""Formats of stored keys and values: one module each, selected by name in
`generation.kv_cache`.

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
    """Interface of a KV format module."""

    CODE: int  # what the kernels call it

    def stored_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype of stored elements for a model's dtype."""

    def stored_width(self, head_dim: int) -> int:
        """Return how many elements a stored vector has."""

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Convert values [..., D] to stored vectors [..., W]."""

    def decode(self, stored: torch.Tensor, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
        """Convert stored vectors [..., W] to values [..., D]."""

    def read_blocks(self, arena: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool) -> torch.Tensor:
        """Copy the stored vectors [KVH, positions, W] out of whole blocks of keys or values.

        pair_size: how many dimensions of a key, or positions of a value, are adjacent.
        """

    def write_blocks(
        self, arena: torch.Tensor, stored: torch.Tensor, head_dim: int, pair_size: int, is_keys: bool
    ) -> None:
        """Write stored vectors [KVH, positions, W] to the first positions of keys or values, in
        whole blocks.
        """


@cache
def load_format(kv_numbers: KvPrecision) -> KvFormat:
    return cast(KvFormat, import_module(f"{__name__}.{FORMATS[kv_numbers]}"))
