"""Queries NVIDIA's driver for GPU properties that matter for vLLM, without importing any library."""

from __future__ import annotations

import os
from functools import cache

from runner_base import visible_gpus

INVARIANT_FROM = 9.0  # compute capability: what VLLM_BATCH_INVARIANT is made for


def query_total_gpu_memory_mib() -> list[float]:
    """Return the total memory of each visible GPU in MiB, or an empty list if the driver reports none."""
    sizes, gpus = visible_gpus.query_nvidia_smi("memory.total"), visible_gpus.find_visible_gpus()
    return [sizes[gpu.uuid] for gpu in gpus] if all(gpu.uuid in sizes for gpu in gpus) else []


def is_batch_invariance_enabled() -> bool:
    """Return whether vLLM's logits for a sequence are independent of the other sequences in the batch.

    The user's setting decides, otherwise the GPUs' compute capability.
    """
    wanted = os.environ.get("VLLM_BATCH_INVARIANT", "")
    return wanted != "0" if wanted else _min_compute_capability() >= INVARIANT_FROM


@cache
def _min_compute_capability() -> float:
    """Return the lowest compute capability among this machine's GPUs, or 0 if unknown.

    Includes invisible GPUs, so that plan and workers get the same result.
    """
    return min(visible_gpus.query_nvidia_smi("compute_cap").values(), default=0.0)
