"""The formats of stored keys, and of stored values: a module for each, found by the name in
`generation.kv_cache`.

A stored *row* is what one place of one head takes: numbers, or bytes with their scales. The kernels
keep rows in blocks of places (kernels/attention.h), and a format knows both.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Protocol, cast

import torch

from runner_engine.settings.kv_cache import KvNumbers

FORMATS = {numbers: numbers.value for numbers in KvNumbers}


class KvFormat(Protocol):
    """What a module of this folder has."""

    CODE: int  # what the kernels call it

    def stored_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type of a row's elements, for a model's numbers."""

    def width(self, dim: int) -> int:
        """Return how many elements a row has."""

    def to_rows(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers [..., D] as rows [..., W]."""

    def to_numbers(self, rows: torch.Tensor, dim: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the numbers [..., D] of rows [..., W]."""

    def rows_of_blocks(self, arena: torch.Tensor, dim: int, pair: int, is_keys: bool) -> torch.Tensor:
        """Return the rows [KVH, places, W] of whole blocks of keys or values, as a copy.

        pair: how many dimensions of a key, and places of a value, lie side by side.
        """

    def put_rows(self, arena: torch.Tensor, rows: torch.Tensor, dim: int, pair: int, is_keys: bool) -> None:
        """Put rows [KVH, places, W] into the first places of keys or values, in whole blocks."""


@cache
def format_of(numbers: KvNumbers) -> KvFormat:
    return cast(KvFormat, import_module(f"{__name__}.{FORMATS[numbers]}"))
