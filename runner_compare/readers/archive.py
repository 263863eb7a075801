"""Read files of an untrusted zip archive into memory, one at a time, without unpacking to disk.

The archive is opened once, so that reading a hundred thousand files takes linear time.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from runner_base import DataError, to_one_line
from runner_compare.readers import MIB

MAX_MEMBER_BYTES = 256 * MIB  # of one file in an archive, unpacked
MAX_ARCHIVE_BYTES = 16 * 1024 * MIB  # of all files in an archive, unpacked, ...
MOST_PACKED = (
    100  # ... or so many times the size of the archive: what a packer makes smaller than that was made to be
)
ZSTD = 93  # the method of a zip archive that Python 3.11 cannot unpack
ENCRYPTED = 1
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field


class Archive:
    """Zip archive that is opened with `with Archive(path)` and read file by file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataError("this is not a file", key=path, code="unreadable")
        with ExitStack() as opened, self._zip_errors_as_data_error():
            self._raw = opened.enter_context(path.open("rb"))
            self._zip = opened.enter_context(zipfile.ZipFile(path))
            members = self._zip.infolist()
            self._check_member_sizes(members)
            self.members = {member.filename: member for member in members}
            if len(self.members) < len(members):
                ((duplicate, _),) = Counter(member.filename for member in members).most_common(1)
                raise DataError(f"{duplicate} is duplicated in it", key=path, code="damaged")
            self._opened = opened.pop_all()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def json_names_in_folder(self, folder: str) -> list[str]:
        """Return the names of the JSON files in a folder of the archive, in archive order."""
        return [name for name in self.members if name.startswith(folder) and name.endswith(".json")]

    def read_member(self, name: str) -> bytes:
        """Return the content of a file in the archive, after checking its size and checksum.

        At most one byte beyond the declared size is unpacked.
        """
        if name not in self.members:
            raise DataError(f"{name} is not in it", key=self.path, code="not_found")
        member = self.members[name]
        if member.flag_bits & ENCRYPTED:
            raise DataError(f"{name} is encrypted", key=self.path, code="unreadable")
        with self._zip_errors_as_data_error():
            if member.compress_type == ZSTD:
                content = self._decompress_zstd(member)
            else:
                with self._zip.open(member) as stream:
                    content = stream.read(member.file_size + 1)
        if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
            raise DataError(
                f"{name} is damaged, because its size or checksum differs from the archive's directory",
                key=self.path,
                code="damaged",
            )
        return content

    def _decompress_zstd(self, member: zipfile.ZipInfo) -> bytes:
        import pyarrow

        self._raw.seek(member.header_offset)
        signature, name_length, extra_length = LOCAL_HEADER.unpack(self._raw.read(LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile(f"no file begins at {member.header_offset}")
        self._raw.seek(name_length + extra_length, io.SEEK_CUR)
        packed = self._raw.read(min(member.compress_size, self.path.stat().st_size))
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
            return bytes(stream.read(member.file_size + 1))

    def _check_member_sizes(self, members: list[zipfile.ZipInfo]) -> None:
        """Raise DataError if the unpacked files would exceed the size limits."""
        for member in members:
            if member.file_size > MAX_MEMBER_BYTES:
                size = f"{member.file_size // MIB:,} MiB"
                raise DataError(
                    f"{member.filename} has {size}, which exceeds the size limit",
                    key=self.path,
                    code="too_large",
                )
        most = max(MAX_ARCHIVE_BYTES, MOST_PACKED * self.path.stat().st_size)
        if sum(member.file_size for member in members) > most:
            raise DataError(
                f"the unpacked files exceed the limit of {most // MIB:,} MiB", key=self.path, code="too_large"
            )

    @contextmanager
    def _zip_errors_as_data_error(self) -> Iterator[None]:
        """Convert zip errors to DataError in this context."""
        try:
            yield
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            NotImplementedError,
            RuntimeError,  # of a file that is said to be encrypted only where it begins
            zlib.error,
            struct.error,
        ) as error:
            raise DataError(
                f"the file is not a valid zip archive ({to_one_line(error, 120)})",
                key=self.path,
                code="damaged",
            ) from error
