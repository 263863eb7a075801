"""The pages of mapped files in this process's memory, such as a checkpoint's: which are resident,
and releasing them.

A page of a mapped file that is no longer read stays resident, and counts as this process's own,
until memory is short. A released page comes back from the file, or from the system's cache of it,
when it is read again.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

MADV_DONTNEED, MADV_PAGEOUT = 4, 21  # of Linux
ENTRY_BYTES = 8  # of /proc/self/pagemap, for each page
# flags of a page: unchanged from the file; in memory or in swap
OF_FILE, IS_PRESENT = (1 << 61, 3 << 62)


class MappedFiles:
    """The parts of this process's memory that are mapped files, at the time of the call."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int, str]] = []  # first address, end, file; in order
        try:
            lines = Path("/proc/self/maps").read_text().splitlines()
        except OSError:
            return  # not Linux
        for line in lines:
            addresses, _, _, _, inode, *path = line.split(maxsplit=5)
            if inode != "0":
                first, last = (int(address, 16) for address in addresses.split("-"))
                self.ranges.append((first, last, path[0] if path else ""))

    def has(self, address: int) -> bool:
        return any(begin <= address < end for begin, end, _ in self.ranges)

    def release(self, address: int, size: int) -> None:
        """Release the whole pages of a piece of memory, if they are a file's."""
        page = mmap.PAGESIZE
        first = -(-address // page) * page
        last = (address + size) // page * page
        if first < last and any(begin <= first and last <= end for begin, end, _ in self.ranges):
            _release(first, last - first)

    def release_files(self, files: Iterable[Path]) -> None:
        """Release all pages of some files."""
        paths = {str(file.resolve()) for file in files}
        for first, last, path in self.ranges:
            if path in paths:
                _release(first, last - first)


def resident_mib(files: Iterable[Path]) -> float:
    """Return how much of some files is in this process's memory, as the kernel counts each
    mapping."""
    paths, is_of, kib = {str(file.resolve()) for file in files}, False, 0
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return 0.0
    for line in lines:
        name, *values = line.split(maxsplit=5)
        if not name.endswith(":"):
            is_of = len(values) == 5 and values[4] in paths
        elif is_of and name == "Rss:":
            kib += int(values[0])
    return kib / 1024


def _release(first: int, size: int) -> None:
    """Drop unchanged pages; if changes cannot be seen, have the pages written out, if need be to
    swap.

    A changed page is this process's own: if it were dropped, the change would be lost.
    """
    changed = _is_changed(first, size)
    if not changed:
        advice = MADV_PAGEOUT if changed is None else MADV_DONTNEED
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice)


def _is_changed(first: int, size: int) -> bool | None:
    """Whether a page of a mapped file was changed since it was mapped; None if the kernel hides
    that."""
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
            pages.seek(first // mmap.PAGESIZE * ENTRY_BYTES)
            entries = pages.read(size // mmap.PAGESIZE * ENTRY_BYTES)
    except OSError:
        return None
    if len(entries) < size // mmap.PAGESIZE * ENTRY_BYTES:
        return None
    return any(entry & IS_PRESENT and not entry & OF_FILE for entry in memoryview(entries).cast("Q"))
