"""The GPUs that a server of vLLM would use, as NVIDIA's driver reports them; no library is imported."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

QUERY = ("--query-gpu=index,memory.total,compute_cap", "--format=csv,noheader,nounits")
INVARIANT_FROM = 9.0  # compute capability: what VLLM_BATCH_INVARIANT is made for


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    mib: float
    capability: float


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use; empty where the driver does not tell."""
    try:
        done = subprocess.run(["nvidia-smi", *QUERY], capture_output=True, text=True, timeout=20, check=False)
        lines = [line.split(",") for line in done.stdout.splitlines()] if done.returncode == 0 else []
        gpus = {index.strip(): Gpu(float(mib), float(capability)) for index, mib, capability in lines}
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(gpus.values())
    return [gpus[name.strip()] for name in visible.split(",") if name.strip() in gpus]


def batch_invariant() -> bool:
    """Whether vLLM is to compute a sequence alike, whatever runs beside it: as the user says, or where it can."""
    wanted = os.environ.get("VLLM_BATCH_INVARIANT", "")
    if wanted:
        return wanted != "0"
    gpus = visible_gpus()
    return bool(gpus) and all(gpu.capability >= INVARIANT_FROM for gpu in gpus)
