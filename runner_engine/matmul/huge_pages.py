"""Memory for packed weights, in large pages where the system has them.

A decoded token reads all weights once. In pages of 4 KiB the processor looks up an address, and
begins a new stream of reads, for each of them; and each is asked for, and cleared, by itself. Most
matrices are smaller than a large page, so that they share regions. A region is given back when the
last of its tensors is gone.
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


class _Region(mmap.mmap):
    """Memory for several tensors, of which some is used."""

    used: int


_last: weakref.ref[_Region] | None = None


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor for weights, with any content."""
    size = math.prod(shape) * dtype.itemsize
    if ADVICE is None or not size:
        return torch.empty(*shape, dtype=dtype)
    region, at = _room(size, ADVICE)
    return torch.frombuffer(region, dtype=dtype, count=math.prod(shape), offset=at).view(*shape)


def move(weight: torch.Tensor) -> None:
    """Move a tensor's numbers to memory in large pages; who holds the tensor reads them there."""
    moved = empty(*weight.shape, dtype=weight.dtype)
    with torch.no_grad():
        weight.set_(moved.copy_(weight))  # type: ignore[call-overload]


def _room(size: int, advice: int) -> tuple[_Region, int]:
    """Return a region with room for so many bytes, and where they begin; advice: for the system,
    about a new one."""
    global _last
    region = _last() if _last is not None else None
    if region is None or region.used + size > len(region):
        # a region begins with a large page, which memory from the system need not
        region = _Region(
            -1, max(REGION, size + ALIGNMENT) + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        with suppress(OSError):  # a kernel without large pages: these are small ones
            region.madvise(advice)
        region.used = -torch.frombuffer(region, dtype=torch.uint8, count=1).data_ptr() % LARGE_PAGE
        _last = weakref.ref(region)
    at = region.used
    region.used = at + -(-size // ALIGNMENT) * ALIGNMENT
    return region, at
