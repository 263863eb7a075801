"""Zeros for keys and values in memory pages of their own."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

import torch

# a row may fill far fewer places than it may need: the system need not reserve memory for all of
# them
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
LARGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # advice to the system


def zeros(size: int, device: torch.device, are_large: bool = False) -> torch.Tensor:
    """Return so many bytes.

    are_large: in large pages. They are faster to read, but as soon as some bytes are written, all
    may be in memory.
    """
    if device.type != "cpu" or not size:
        return torch.zeros(size, dtype=torch.uint8, device=device)
    # they take no memory until they are written, and are freed with the tensor
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    if are_large and LARGE_PAGES is not None:
        with suppress(OSError):  # a kernel without large pages: these are small ones
            pages.madvise(LARGE_PAGES)
    return torch.frombuffer(pages, dtype=torch.uint8)
