"""How much memory there is for keys and values, and what a pass that failed leaves in it."""

from __future__ import annotations

import torch

from runner.core import machine
from runner.models.capability import gpu_free_mib


def free_mib(device: torch.device) -> float:
    """Return what this process can still take of a device's memory."""
    return gpu_free_mib(device.index or 0) if device.type == "cuda" else machine.available_mib()


def let_go(error: BaseException, device: torch.device) -> None:
    """Drop what a pass that failed has left in memory."""
    error.__traceback__ = None  # it holds the tensors of that pass
    if device.type == "cuda":
        torch.cuda.empty_cache()
