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

from runner_base.errors import DataError, os_errors_as_data_error, to_one_line

GZIP_SUFFIX = ".gz"
MIB = 2**20
MAX_RATIO = 100  # of unpacked to packed bytes: what is packed better than that was made to be
MIN_LIMIT_BYTES = 64 * MIB  # a small file may always unpack to this size
MAX_PACKED_BYTES = 1024 * MIB


class LimitedReader(io.RawIOBase):
    """Stream that raises DataError after `limit` bytes."""

    def __init__(self, stream: BinaryIO, limit: int, source: object) -> None:
        self.stream, self.limit, self.where, self.count = stream, limit, source, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self.stream.read(self.limit - self.count + 1 if size < 0 else size)
        self.count += len(content)
        if self.count > self.limit:
            raise DataError(
                f"the decompressed content exceeds the limit of {self.limit // MIB:,} MiB",
                key=self.where,
                code="too_large",
            )
        return content


def read_gzip(path: Path) -> bytes:
    """Unpack a gzip file into memory. Raises DataError if it is damaged or too large."""
    with os_errors_as_data_error(path):
        if not path.is_file():
            raise DataError("this is not a file", key=path, code="unreadable")
        if path.stat().st_size > MAX_PACKED_BYTES:
            raise DataError(f"larger than {MAX_PACKED_BYTES // MIB} MiB", key=path, code="too_large")
        packed = path.read_bytes()
    return unpack_gzip(packed, str(path))


def unpack_gzip(packed: bytes, source: str) -> bytes:
    """Unpack gzip bytes. Raises DataError if they are damaged or too large."""
    with open_decompressed_stream(io.BytesIO(packed), len(packed), source) as stream:
        return stream.read()


@contextmanager
def open_decompressed_stream(
    compressed_stream: BinaryIO, size: int, error_source: object, is_gzip: bool = True
) -> Iterator[LimitedReader]:
    """Open a gzip file or uncompressed tar stream with a size limit against decompression bombs.

    Raises DataError if a gzip file or tar archive is damaged.
    """
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=compressed_stream)) if is_gzip else compressed_stream
    try:
        yield LimitedReader(stream, max(MIN_LIMIT_BYTES, MAX_RATIO * size), error_source)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        kind = "gzip file" if is_gzip else "tar archive"
        raise DataError(
            f"the file is not a valid {kind}: it may be damaged or truncated ({to_one_line(error, 120)})",
            key=error_source,
            code="damaged",
        ) from error
