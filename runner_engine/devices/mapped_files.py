"""Finds and releases resident memory pages of memory-mapped files, such as a checkpoint.

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
    """Address ranges of memory-mapped files in this process, read at construction."""

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

    def is_mapped_address(self, address: int) -> bool:
        return any(begin <= address < end for begin, end, _ in self.ranges)

    def release_pages(self, address: int, nbytes: int) -> None:
        page = mmap.PAGESIZE
        first = -(-address // page) * page
        last = (address + nbytes) // page * page
        if first < last and any(begin <= first and last <= end for begin, end, _ in self.ranges):
            _release_unmodified_pages(first, last - first)

    def release_files(self, files: Iterable[Path]) -> None:
        paths = {str(file.resolve()) for file in files}
        for first, last, path in self.ranges:
            if path in paths:
                _release_unmodified_pages(first, last - first)


def release_library_pages() -> None:
    """Release the pages of shared libraries, most of which only loading the libraries has read.

    torch's list of symbols alone is tens of MiB. The pages of what runs come back when it runs.
    """
    for first, last, path in MappedFiles().ranges:
        if ".so" in Path(path).name and _has_modified_pages(first, last - first) is False:
            _advise(first, last - first, MADV_DONTNEED)


def measure_resident_file_mib(files: Iterable[Path]) -> float:
    """Return how many MiB of the given files are resident in this process, measured by the operating
    system.
    """
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


def _release_unmodified_pages(address: int, nbytes: int) -> None:
    """Drop unmodified pages.

    If modifications cannot be detected, the kernel pages the range out, to swap if needed. Modified
    pages belong to this process; dropping them would lose the modification.
    """
    changed = _has_modified_pages(address, nbytes)
    if not changed:
        _advise(address, nbytes, MADV_PAGEOUT if changed is None else MADV_DONTNEED)


def _advise(address: int, nbytes: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), advice)


def _has_modified_pages(address: int, nbytes: int) -> bool | None:
    """Whether a page of a mapped file was modified in memory. None if unknown."""
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
            pages.seek(address // mmap.PAGESIZE * ENTRY_BYTES)
            entries = pages.read(nbytes // mmap.PAGESIZE * ENTRY_BYTES)
    except OSError:
        return None
    if len(entries) < nbytes // mmap.PAGESIZE * ENTRY_BYTES:
        return None
    return any(entry & IS_PRESENT and not entry & OF_FILE for entry in memoryview(entries).cast("Q"))
