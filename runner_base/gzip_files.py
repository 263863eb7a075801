"""Unpacks untrusted gzip files into memory, up to a size limit."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from runner_base.errors import DataError, one_line, reading

GZIP_SUFFIX = ".gz"
MIB = 2**20
MAX_RATIO = 100  # of unpacked to packed bytes: what is packed better than that was made to be
MIN_LIMIT_BYTES = 64 * MIB  # a small file may always unpack to this size
MAX_PACKED_BYTES = 1024 * MIB


class LimitedReader(io.RawIOBase):
    """Reads a stream up to a limit; DataError beyond it."""

    def __init__(self, stream: BinaryIO, limit: int, where: object) -> None:
        self.stream, self.limit, self.where, self.count = stream, limit, where, 0

    def readable(self) -> bool:
        """Return True: the stream can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        content = self.stream.read(self.limit - self.count + 1 if size < 0 else size)
        self.count += len(content)
        if self.count > self.limit:
            raise DataError(
                f"unpacked it has more than {self.limit // MIB:,} MiB, more than are read",
                key=self.where,
                code="too_large",
            )
        return content


def read_gzip(path: Path) -> bytes:
    """Return the unpacked content of a gzip file; DataError for a damaged or a huge one."""
    with reading(path):
        if not path.is_file():
            raise DataError("this is not a file", key=path, code="unreadable")
        if path.stat().st_size > MAX_PACKED_BYTES:
            raise DataError(f"larger than {MAX_PACKED_BYTES // MIB} MiB", key=path, code="too_large")
        packed = path.read_bytes()
    return unpack_gzip(packed, str(path))


def unpack_gzip(packed: bytes, where: str) -> bytes:
    """Return the unpacked content of gzip bytes; DataError for damaged or huge ones."""
    with unpacked(io.BytesIO(packed), len(packed), where) as stream:
        return stream.read()


@contextmanager
def unpacked(raw: BinaryIO, size: int, where: object, is_gzip: bool = True) -> Iterator[LimitedReader]:
    """Yield the unpacked stream of a gzip file, or a plain one; DataError where it is damaged."""
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if is_gzip else raw
    try:
        yield LimitedReader(stream, max(MIN_LIMIT_BYTES, MAX_RATIO * size), where)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        kind = "gzip file" if is_gzip else "tar archive"
        raise DataError(
            f"damaged, cut off, or not a {kind} ({one_line(error, 120)})", key=where, code="damaged"
        ) from error
