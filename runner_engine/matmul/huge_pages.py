"""Allocates memory for packed weights, in huge pages if the system has them.

Each decoded token reads all weights once. With pages of 4 KiB the processor translates an address
and restarts its prefetching for each page, and each is requested and cleared separately. Most
matrices are smaller than a huge page, so they share regions. A region is freed when the last of its
tensors is gone.
"""

from __future__ import annotations

import math
import mmap
import weakref
from contextlib import suppress

import torch

LARGE_PAGE = 2 << 20
REGION = 32 << 20
ALIGNMENT = 64  # a cache line
ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # on Linux


class _MemoryRegion(mmap.mmap):
    """A memory region that is allocated once and holds several tensors."""

    used: int


_last: weakref.ref[_MemoryRegion] | None = None


def allocate_weight_tensor(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialized tensor for weights, in huge pages if available."""
    size = math.prod(shape) * dtype.itemsize
    if ADVICE is None or not size:
        return torch.empty(*shape, dtype=dtype)
    region, at = _reserve_memory(size, ADVICE)
    return torch.frombuffer(region, dtype=dtype, count=math.prod(shape), offset=at).view(*shape)


def move_to_huge_pages(weight: torch.Tensor) -> None:
    """Move a tensor's data to huge pages, and keep the tensor object."""
    moved = allocate_weight_tensor(*weight.shape, dtype=weight.dtype)
    with torch.no_grad():
        weight.set_(moved.copy_(weight))  # type: ignore[call-overload]


def _reserve_memory(nbytes: int, advice: int) -> tuple[_MemoryRegion, int]:
    """Reserve bytes in a memory region.

    Returns the region and the byte offset.

    advice: the madvise flag for a new region.
    """
    global _last
    region = _last() if _last is not None else None
    if region is None or region.used + nbytes > len(region):
        # a region begins with a large page, which memory from the system need not
        region = _MemoryRegion(
            -1, max(REGION, nbytes + ALIGNMENT) + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        with suppress(OSError):  # a kernel without large pages: these are small ones
            region.madvise(advice)
        region.used = -torch.frombuffer(region, dtype=torch.uint8, count=1).data_ptr() % LARGE_PAGE
        _last = weakref.ref(region)
    at = region.used
    region.used = at + -(-nbytes // ALIGNMENT) * ALIGNMENT
    return region, at
