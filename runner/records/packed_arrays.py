"""Packs number arrays into JSON strings, compressed with zstd and encoded in base64."""

from __future__ import annotations

import base64
from array import array
from typing import Any

# 4, 4 and 8 bytes, little-endian on all machines that torch runs on
ID, LOGPROB, NATS = ("I", "f", "d")


def pack_array(values: array[Any]) -> str:
    import pyarrow  # late: importing it takes tens of milliseconds

    return base64.b64encode(pyarrow.compress(values.tobytes(), codec="zstd", asbytes=True)).decode()


def unpack_array(array_typecode: str, packed_text: str | None, num_values: int) -> array[Any]:
    """Decode a packed array of `num_values` values. `typecode` is a type code of Python's `array` module."""
    import pyarrow

    values: array[Any] = array(array_typecode)
    if packed_text is not None:
        content, size = base64.b64decode(packed_text, validate=True), num_values * values.itemsize
        values.frombytes(pyarrow.decompress(content, decompressed_size=size, codec="zstd", asbytes=True))
    return values
