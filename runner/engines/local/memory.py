"""How much the scheduler may hold, and which errors say that memory has run out."""

from __future__ import annotations

import torch

from runner.core import machine
from runner.engines.local.kv_cache import Heads

SHARE_OF_MEMORY = 0.5  # of what is free, for keys and values; activations need room, too
MEMORY_ERRORS = (RuntimeError, MemoryError, OSError)  # torch's own are of the first kind, mmap's of the last
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "DefaultCPUAllocator", "Cannot allocate memory", "bad_alloc",
    "could not create a primitive", "could not execute a primitive",  # oneDNN, of products that went well
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether one of MEMORY_ERRORS means that memory has run out."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)


def budget_tokens(heads: Heads) -> int:
    """Return how many tokens' keys and values may be held."""
    return int(free_bytes(heads.device) * SHARE_OF_MEMORY / heads.bytes_per_token)


def free_bytes(device: torch.device) -> float:
    """Return how much memory is free on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free)
    return machine.available_mib() * machine.MIB
