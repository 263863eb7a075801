"""How much memory is free, and what a model has taken. These names are what others need of this
folder."""

from runner_engine.memory.memory import MemoryGuard, free_mib, release_failed_pass
from runner_engine.memory.own_memory import PeakMemory, note_cache, note_cuda, note_pass, restart_cuda

__all__ = [  # noqa: RUF022 - by what they are for
    # free memory
    "MemoryGuard",  # watches main memory: how many tokens a pass may read, and whether the next one fits
    "free_mib",  # what this process can still take of a device's memory
    "release_failed_pass",  # frees what a failed pass has left
    # peaks, for the result
    "PeakMemory",  # notes the peaks of keys, values and passes of a loaded model
    "note_pass",  # notes the size of a pass
    "note_cache",  # notes the bytes of a cache of transformers
    "note_cuda",  # notes the GPU allocator's peak
    "restart_cuda",  # forgets the peak of loading
]
