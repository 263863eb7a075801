"""How fast memory is read: what bounds a decoded token, which reads all weights once."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from runner_base import MIB
from runner_engine.kernels import native
from runner_engine.matmul import PlainPackedWeights

READ_BYTES, READ_TIMES = 512 * MIB, 5


def read_mib_per_s(by_processor: bool) -> float:
    """Return how fast the threads of torch read memory: by a sum, or by a product of one row,
    whichever is faster."""
    numbers = torch.zeros(int(READ_BYTES) // 8, dtype=torch.int64)
    kernels, row = native.load_kernels(), torch.zeros(1, 4096, dtype=torch.bfloat16)
    readers: dict[str, Callable[[], torch.Tensor]] = {"sum": lambda: numbers.sum()}
    if kernels is not None and kernels.has_function("product", row.dtype):
        panels = PlainPackedWeights.pack(numbers.view(torch.bfloat16).view(-1, row.shape[1]), None, kernels)
        readers["product"] = lambda: panels.matmul(row)
    clock = time.process_time if by_processor else time.perf_counter
    best = 0.0
    for read in readers.values():
        for _ in range(READ_TIMES):
            started = clock()
            read()
            best = max(best, numbers.nbytes / MIB / (clock() - started))
    return best
