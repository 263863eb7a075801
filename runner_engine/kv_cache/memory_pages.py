"""Allocates zeroed memory for keys and values in separate pages of the operating system."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

import torch

# a row may fill far fewer places than it may need: the system need not reserve memory for all of
# them
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
LARGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # advice to the system


def allocate_zeros(nbytes: int, device: torch.device, use_large_pages: bool = False) -> torch.Tensor:
    """Allocate `nbytes` zeroed bytes. On a CPU, bytes that were never written take no memory.

    use_large_pages: faster to read, but writing a few bytes may allocate everything.
    """
    if device.type != "cpu" or not nbytes:
        return torch.zeros(nbytes, dtype=torch.uint8, device=device)
    # they take no memory until they are written, and are freed with the tensor
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    if use_large_pages and LARGE_PAGES is not None:
        with suppress(OSError):  # a kernel without large pages: these are small ones
            pages.madvise(LARGE_PAGES)
    return torch.frombuffer(pages, dtype=torch.uint8)
