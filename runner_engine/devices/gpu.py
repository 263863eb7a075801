"""Measures and frees torch's GPU memory, without importing torch.

No GPU is in use until other code has imported torch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from runner_base import MIB
from runner_base.errors import get_fatal_gpu_error_message

if TYPE_CHECKING:
    import torch


def _get_torch_if_gpu_in_use() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def copy_to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to a device. Pinned memory lets the CPU continue during the copy."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def copy_into_device_tensor(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy a CPU tensor into an existing device tensor. Pinned memory lets the CPU continue during
    the copy.
    """
    if target.device.type == "cuda":
        target.copy_(source.pin_memory(), non_blocking=True)
    else:
        target.copy_(source)


def reset_peak_gpu_memory() -> None:
    """Reset the peak counters of torch's GPU allocator to the currently allocated memory."""
    if (torch := _get_torch_if_gpu_in_use()) is not None:
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def get_gpu_failure_message() -> str:
    """Return the error that prevents this process from using its GPUs. Empty if the GPUs work.

    The code that caught the error may not have passed it on, but torch reports it again.
    """
    torch = _get_torch_if_gpu_in_use()
    try:
        for device in range(torch.cuda.device_count()) if torch is not None else ():
            if torch.cuda.memory_reserved(
                device
            ):  # only what is in use, since to wait for a GPU takes some memory
                torch.cuda.synchronize(device)
    except RuntimeError as error:
        return get_fatal_gpu_error_message(error)
    return ""


def free_cached_gpu_memory() -> None:
    """Free the GPU memory that torch caches. Ignores a GPU failure."""
    torch = _get_torch_if_gpu_in_use()
    try:
        if torch is not None:
            torch.cuda.empty_cache()
    except RuntimeError as error:
        if not get_fatal_gpu_error_message(error):
            raise


def get_peak_gpu_memory_mib() -> float | None:
    """Return the peak GPU allocation in MiB since the last reset, summed over all GPUs. None if no
    GPU is in use.
    """
    torch = _get_torch_if_gpu_in_use()
    if torch is None:
        return None
    peaks = [float(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count())]
    return sum(peaks) / MIB
