"""Properties of this machine's GPUs on which vLLM's behaviour depends, from NVIDIA's driver. No
library is imported.
"""

from __future__ import annotations

import os
from functools import cache

from runner_base import visible_gpus

INVARIANT_FROM = 9.0  # compute capability: what VLLM_BATCH_INVARIANT is made for


def gpu_memory_mib() -> list[float]:
    """Return the total memory of each visible GPU in MiB, or an empty list if the driver does not
    report it.
    """
    sizes, gpus = visible_gpus.query_nvidia_smi("memory.total"), visible_gpus.find_visible_gpus()
    return [sizes[gpu.uuid] for gpu in gpus] if all(gpu.uuid in sizes for gpu in gpus) else []


def is_batch_invariant() -> bool:
    """Return whether vLLM computes each sequence independently of its batch, by the user's setting or
    the GPUs' compute capability.
    """
    wanted = os.environ.get("VLLM_BATCH_INVARIANT", "")
    return wanted != "0" if wanted else _min_compute_capability() >= INVARIANT_FROM


@cache
def _min_compute_capability() -> float:
    """Return the lowest compute capability of this machine's GPUs, so that plan and workers agree. 0
    means unknown.
    """
    return min(visible_gpus.query_nvidia_smi("compute_cap").values(), default=0.0)
