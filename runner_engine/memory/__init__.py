"""Free memory of a device, and peak memory of a model."""

from runner_engine.memory.memory_guard import MemoryGuard, free_mib, release_memory_after_failure
from runner_engine.memory.peak_memory import (
    PeakMemory,
    record_activation_peak,
    record_cache_peak,
    record_cuda_peak,
    reset_cuda_peaks,
)

__all__ = [  # noqa: RUF022 - by what they are for
    # free memory
    "MemoryGuard",  # watches main memory: how many tokens a pass may read, and whether the next one fits
    "free_mib",  # what this process can still take of a device's memory
    "release_memory_after_failure",  # frees what a failed pass has left
    # peaks, for the result
    "PeakMemory",  # notes the peaks of keys, values and passes of a loaded model
    "record_activation_peak",  # notes the size of a pass
    "record_cache_peak",  # notes the bytes of a cache of transformers
    "record_cuda_peak",  # notes the GPU allocator's peak
    "reset_cuda_peaks",  # forgets the peak of loading
]
