"""The GPUs that a server of vLLM would use, as NVIDIA's driver reports them; no library is imported."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

QUERY = ("--query-gpu=index,uuid,memory.total,compute_cap", "--format=csv,noheader,nounits")
INVARIANT_FROM = 9.0  # compute capability: what VLLM_BATCH_INVARIANT is made for


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    index: str
    uuid: str
    mib: float
    capability: float


def all_gpus() -> list[Gpu]:
    """Return this machine's GPUs; empty where the driver does not tell."""
    try:
        done = subprocess.run(["nvidia-smi", *QUERY], capture_output=True, text=True, timeout=20, check=False)
        lines = [line.split(",") for line in done.stdout.splitlines()] if done.returncode == 0 else []
        return [Gpu(index.strip(), uuid.strip(), float(mib), float(power)) for index, uuid, mib, power in lines]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use, by their numbers or UUIDs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    return [gpu for gpu in all_gpus()
            if names is None or any(name == gpu.index or gpu.uuid.startswith(name) for name in names)]  # fmt: skip


def batch_invariant() -> bool:
    """Whether vLLM is to compute a sequence alike, whatever runs beside it: as the user says, or where it can."""
    wanted = os.environ.get("VLLM_BATCH_INVARIANT", "")
    if wanted:
        return wanted != "0"
    gpus = all_gpus()  # not those of a grid's worker: plan and worker must agree
    return bool(gpus) and all(gpu.capability >= INVARIANT_FROM for gpu in gpus)
