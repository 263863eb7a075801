"""Packs arrays of numbers into JSON: compressed with zstd and encoded as base64."""

from __future__ import annotations

import base64
from array import array
from typing import Any

# 4, 4 and 8 bytes, little-endian on all machines that torch runs on
ID, LOGPROB, NATS = ("I", "f", "d")


def pack_array(values: array[Any]) -> str:
    import pyarrow  # late: importing it takes tens of milliseconds

    return base64.b64encode(pyarrow.compress(values.tobytes(), codec="zstd", asbytes=True)).decode()


def unpack_array(typecode: str, text: str | None, count: int) -> array[Any]:
    """Return the array of `count` values from packed text. Empty for None."""
    import pyarrow

    values: array[Any] = array(typecode)
    if text is not None:
        content, size = base64.b64decode(text, validate=True), count * values.itemsize
        values.frombytes(pyarrow.decompress(content, decompressed_size=size, codec="zstd", asbytes=True))
    return values
