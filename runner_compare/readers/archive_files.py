"""Read files of untrusted tar and zip archives into memory, up to a size limit."""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from runner_base import DataError, os_errors_as_data_error
from runner_base.gzip_files import LimitedReader, open_decompressed_stream
from runner_compare.readers.archive import Archive
from runner_compare.readers.files import MAX_FILE_BYTES, MIB

PACKED_JOB_SUFFIX = ".runner.gz"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", PACKED_JOB_SUFFIX)
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip")
CHUNK_BYTES = MIB


def read_archive(path: Path, file_names: Collection[str]) -> dict[str, bytes]:
    """Read the files with these names from a tar, tar.gz or zip archive.

    They may be in any folder. Raises DataError for a damaged or huge archive, and for names
    outside its folder.
    """
    if path.name.lower().endswith(TAR_SUFFIXES):
        return dict(_iter_tar_members(path, file_names))
    with Archive(path) as archive:
        chosen = [name for name in archive.members if _is_requested_archive_file(path, name, file_names)]
        size = sum(archive.members[name].file_size for name in chosen)
        _check_size(path, size)
        return {name: archive.read_member(name) for name in chosen}


def _iter_tar_members(path: Path, file_names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with _open_tar(path) as stream, tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as archive:
        size, seen = 0, set[str]()
        for member in archive:
            if not _is_requested_archive_file(path, member.name, file_names) or member.isdir():
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


def _is_requested_archive_file(path: Path, name: str, file_names: Collection[str]) -> bool:
    """Return whether a file in the archive is requested.

    Raises DataError if the path leaves the archive's folder.
    """
    place = PurePosixPath(name)
    if ".." in place.parts or place.is_absolute() or "\\" in name:
        raise DataError(
            f"the path {name[:80]!r} points outside the archive's folder", key=path, code="refused"
        )
    return place.name in file_names


def _check_size(path: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(
            f"the files in the archive exceed {MAX_FILE_BYTES // MIB:,} MiB", key=path, code="too_large"
        )


@contextmanager
def _open_tar(path: Path) -> Iterator[LimitedReader]:
    """Open a tar archive as a decompressed stream. Raises DataError if the archive is damaged or
    truncated.
    """
    if not path.is_file():
        raise DataError("this is not a file", key=path, code="unreadable")
    is_gzip = not path.name.lower().endswith(".tar")
    with (
        os_errors_as_data_error(path),
        path.open("rb") as raw_file,
        open_decompressed_stream(raw_file, path.stat().st_size, path, is_gzip) as stream,
    ):
        yield stream
