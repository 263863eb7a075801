"""Unpacks gzip files and tar archives that somebody else has written, into memory and up to a limit."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from runner_base import DataError, one_line, reading
from runner_compare.readers.archive import MOST_PACKED, Archive
from runner_compare.readers.files import MAX_FILE_BYTES, MIB, read_bytes

GZIP_SUFFIX = ".gz"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip")
MIN_LIMIT_BYTES = 64 * MIB  # a small file may always unpack to this size
CHUNK_BYTES = MIB


class LimitedReader(io.RawIOBase):
    """Reads a stream up to a limit; DataError beyond it."""

    def __init__(self, stream: BinaryIO, limit: int, where: object) -> None:
        self.stream, self.limit, self.where, self.count = stream, limit, where, 0

    def readable(self) -> bool:
        """It is there to be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        content = self.stream.read(self.limit - self.count + 1 if size < 0 else size)
        self.count += len(content)
        if self.count > self.limit:
            raise DataError(
                f"{self.where}: unpacked it has more than {self.limit // MIB:,} MiB, more than are read"
            )
        return content


def read_gzip(path: Path) -> bytes:
    """Return the unpacked content of a gzip file; DataError for a damaged or a huge one."""
    return unpack_gzip(_read_whole(path), str(path))


def unpack_gzip(packed: bytes, where: str) -> bytes:
    """Return the unpacked content of gzip bytes; DataError for damaged or huge ones."""
    with _unpacked(io.BytesIO(packed), len(packed), where, "gzip file") as stream:
        return stream.read()


def read_archive(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """Return the files of an archive (tar, tar.gz or zip) that have one of these names in any folder.

    DataError for a damaged or a huge archive, and for names that leave its folder.
    """
    if path.name.lower().endswith(TAR_SUFFIXES):
        return dict(_tar_members(path, wanted))
    with Archive(path) as archive:
        chosen = [name for name in archive.members if _is_wanted(path, name, wanted)]
        size = sum(archive.members[name].file_size for name in chosen)
        _check_size(path, size)
        return {name: archive.read(name) for name in chosen}


def _tar_members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with (
        _open(path) as stream,
        tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive,
    ):
        size, seen = 0, set[str]()
        for member in archive:
            if not _is_wanted(path, member.name, wanted) or member.isdir():
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise DataError(f"{path}: {member.name} is a link or a device, not a file")
            if member.name in seen:
                raise DataError(f"{path}: {member.name} is duplicated in it")
            seen.add(member.name)
            size += member.size
            _check_size(path, size)
            yield member.name, content.read()
        while stream.read(CHUNK_BYTES):  # to the end, where gzip has its checksum
            pass


def _is_wanted(path: Path, name: str, wanted: Collection[str]) -> bool:
    """Whether a file is to be read; DataError for a name that leaves the archive's folder."""
    place = PurePosixPath(name)
    if ".." in place.parts or place.is_absolute() or "\\" in name:
        raise DataError(f"{path}: {name[:80]!r} leads out of the archive's folder")
    return place.name in wanted


def _check_size(path: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"{path}: its files have more than {MAX_FILE_BYTES // MIB:,} MiB")


def _read_whole(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path}: this is not a file")
    return read_bytes(path)


@contextmanager
def _open(path: Path) -> Iterator[LimitedReader]:
    """Open a tar archive for reading, unpacked; DataError where it is damaged or cut off."""
    if not path.is_file():
        raise DataError(f"{path}: this is not a file")
    kind = "tar archive" if path.name.lower().endswith(".tar") else "gzip file"
    with (
        reading(path),
        path.open("rb") as raw,
        _unpacked(raw, path.stat().st_size, path, kind) as stream,
    ):
        yield stream


@contextmanager
def _unpacked(raw: BinaryIO, size: int, where: object, kind: str) -> Iterator[LimitedReader]:
    """Yield the unpacked stream of a gzip file, or a plain one; DataError where it is damaged."""
    limit = max(MIN_LIMIT_BYTES, MOST_PACKED * size)
    stream = gzip.GzipFile(fileobj=raw) if kind == "gzip file" else raw
    try:
        yield LimitedReader(cast(BinaryIO, stream), limit, where)
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise DataError(
            f"{where}: damaged, cut off, or not a {kind} ({one_line(error, 120)})"
        ) from error
