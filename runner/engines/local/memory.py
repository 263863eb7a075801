"""How much memory there is for keys and values, and which errors say that there was not enough."""

from __future__ import annotations

import torch

from runner.core import machine
from runner.models.capability import gpu_free_mib

MEMORY_ERRORS = (RuntimeError, MemoryError, OSError)  # torch's own are of the first kind, mmap's of the last
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "DefaultCPUAllocator", "Cannot allocate memory", "bad_alloc",
    "could not create a primitive", "could not execute a primitive",  # oneDNN, of products that went well
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that memory ran out, and nothing else is wrong."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, MEMORY_ERRORS) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def free_mib(device: torch.device) -> float:
    """Return what this process can still take of a device's memory."""
    return gpu_free_mib(device.index or 0) if device.type == "cuda" else machine.available_mib()


def let_go(error: BaseException, device: torch.device) -> None:
    """Drop what a pass that failed has left in memory."""
    error.__traceback__ = None  # it holds the tensors of that pass
    if device.type == "cuda":
        torch.cuda.empty_cache()
