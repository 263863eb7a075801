"""Reads untrusted archives into memory, up to a size limit."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from runner_base import DataError, reading
from runner_base.gzip_files import LimitedReader, unpacked
from runner_compare.readers.archive import Archive
from runner_compare.readers.files import MAX_FILE_BYTES, MIB

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip")
CHUNK_BYTES = MIB


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
    with _open(path) as stream, tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive:
        size, seen = 0, set[str]()
        for member in archive:
            if not _is_wanted(path, member.name, wanted) or member.isdir():
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise DataError(f"{member.name} is a link or a device, not a file", key=path, code="refused")
            if member.name in seen:
                raise DataError(f"{member.name} is duplicated in it", key=path, code="damaged")
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
        raise DataError(f"{name[:80]!r} leads out of the archive's folder", key=path, code="refused")
    return place.name in wanted


def _check_size(path: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"its files have more than {MAX_FILE_BYTES // MIB:,} MiB", key=path, code="too_large")


@contextmanager
def _open(path: Path) -> Iterator[LimitedReader]:
    """Open a tar archive for reading, unpacked; DataError where it is damaged or cut off."""
    if not path.is_file():
        raise DataError("this is not a file", key=path, code="unreadable")
    is_gzip = not path.name.lower().endswith(".tar")
    with reading(path), path.open("rb") as raw, unpacked(raw, path.stat().st_size, path, is_gzip) as stream:
        yield stream
