"""The pages of files in this process's memory, such as a checkpoint's: which there are, and giving them back.

A page of a mapped file that nobody reads any more stays resident, and counts as this process's own, until memory is
short. What is let go here comes back from the file, or from the system's cache of it, when it is read again.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

MADV_DONTNEED, MADV_PAGEOUT = 4, 21  # of Linux
ENTRY_BYTES = 8  # of /proc/self/pagemap, for each page
OF_FILE, IS_SOMEWHERE = 1 << 61, 3 << 62  # a page that is still the file's; one in memory or in swap


class MappedFiles:
    """The parts of this process's memory that are files, as they are now."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int, str]] = []  # first address, the one behind the last, and the file; in order
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
        """Whether a file is mapped there."""
        return any(begin <= address < end for begin, end, _ in self.ranges)

    def let_go(self, address: int, size: int) -> None:
        """Give the whole pages of a piece of memory back, where it is a file's."""
        page = mmap.PAGESIZE
        first = -(-address // page) * page
        last = (address + size) // page * page
        if first < last and any(begin <= first and last <= end for begin, end, _ in self.ranges):
            _give_back(first, last - first)

    def let_go_of(self, files: Iterable[Path]) -> None:
        """Give back all pages of some files."""
        paths = {str(file.resolve()) for file in files}
        for first, last, path in self.ranges:
            if path in paths:
                _give_back(first, last - first)


def resident_mib(files: Iterable[Path]) -> float:
    """How much of some files is in this process's memory, by the kernel's own account of each mapping."""
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


def _give_back(first: int, size: int) -> None:
    """Drop pages that are as the file has them; where that cannot be seen, have them written out, if need be to swap.

    Pages that were written since are this process's own: dropped, they would be the file's again.
    """
    changed = _is_changed(first, size)
    if not changed:
        advice = MADV_PAGEOUT if changed is None else MADV_DONTNEED
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice)


def _is_changed(first: int, size: int) -> bool | None:
    """Whether a page of a mapped file was written since, and so is no longer the file's; None where that is hidden."""
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
            pages.seek(first // mmap.PAGESIZE * ENTRY_BYTES)
            entries = pages.read(size // mmap.PAGESIZE * ENTRY_BYTES)
    except OSError:
        return None
    if len(entries) < size // mmap.PAGESIZE * ENTRY_BYTES:
        return None
    return any(entry & IS_SOMEWHERE and not entry & OF_FILE for entry in memoryview(entries).cast("Q"))
