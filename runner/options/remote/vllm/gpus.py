"""What vLLM's rules ask of this machine's GPUs, as NVIDIA's driver reports them; no library is
imported."""

from __future__ import annotations

import os
from functools import cache

from runner_base import visible_gpus

INVARIANT_FROM = 9.0  # compute capability: what VLLM_BATCH_INVARIANT is made for


def memory_mib() -> list[float]:
    """Return the whole memory of each GPU that this process may use; empty where the driver does
    not tell."""
    sizes, gpus = visible_gpus.from_driver("memory.total"), visible_gpus.visible()
    return [sizes[gpu.uuid] for gpu in gpus] if all(gpu.uuid in sizes for gpu in gpus) else []


def batch_invariant() -> bool:
    """Whether vLLM is to compute a sequence alike, whatever runs beside it: as the user says, or
    where it can."""
    wanted = os.environ.get("VLLM_BATCH_INVARIANT", "")
    return wanted != "0" if wanted else _lowest_capability() >= INVARIANT_FROM


@cache
def _lowest_capability() -> float:
    """Return that of all GPUs here, not of a grid's worker alone: plan and worker must agree. 0:
    none is known."""
    return min(visible_gpus.from_driver("compute_cap").values(), default=0.0)
