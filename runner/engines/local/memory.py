"""How much memory there is for keys and values, and which errors say that there was not enough."""

from __future__ import annotations

import errno

import torch

from runner.core import machine
from runner.models.capability import gpu_free_mib

MEMORY_ERRORS = (RuntimeError, MemoryError, OSError)  # torch's own are of the first kind, mmap's of the last
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "DefaultCPUAllocator", "Cannot allocate memory", "bad_alloc",
    "could not create a primitive", "could not execute a primitive",  # oneDNN, of products that went well
    "could not create a memory", "failed to map segment", "unable to mmap",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cuBLAS says when there is no room for its workspace
)  # fmt: skip


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that memory ran out, itself or as what it came from, and nothing else is wrong.

    A model's own code, and libraries between it and torch, may raise an error of their own for one of torch's.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM):
            return True
        if isinstance(seen, MEMORY_ERRORS) and any(sign in str(seen) for sign in OUT_OF_MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def free_mib(device: torch.device) -> float:
    """Return what this process can still take of a device's memory."""
    return gpu_free_mib(device.index or 0) if device.type == "cuda" else machine.available_mib()


def let_go(error: BaseException, device: torch.device) -> None:
    """Drop what a pass that failed has left in memory."""
    error.__traceback__ = None  # it holds the tensors of that pass
    if device.type == "cuda":
        torch.cuda.empty_cache()
