"""torch's GPUs and the memory that it has allocated there, without importing torch: if nobody has,
none is in use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from runner_base import MIB
from runner_base.errors import lost_gpu

if TYPE_CHECKING:
    import torch


def _torch_with_gpus() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def sent(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device; from pinned memory to a GPU, so that the host does
    not wait."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


def put(numbers: torch.Tensor, into: torch.Tensor) -> None:
    """Copy a tensor of the host into one on a device, in the same way."""
    if into.device.type == "cuda":
        into.copy_(numbers.pin_memory(), non_blocking=True)
    else:
        into.copy_(numbers)


def restart_peak() -> None:
    """Reset the allocator's high-water marks to what is allocated now."""
    if (torch := _torch_with_gpus()) is not None:
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def why_lost() -> str:
    """Return why this process can use its GPUs no more, such as a failed assertion on one of them;
    empty if it can.

    Whoever caught the error may not have passed it on, but torch reports it again.
    """
    torch = _torch_with_gpus()
    try:
        for device in range(torch.cuda.device_count()) if torch is not None else ():
            if torch.cuda.memory_reserved(
                device
            ):  # only what is in use, since to wait for a GPU takes some memory
                torch.cuda.synchronize(device)
    except RuntimeError as error:
        return lost_gpu(error)
    return ""


def free_unused() -> None:
    """Give back memory that torch keeps for itself; nothing if the GPU is lost, which another error
    has said."""
    torch = _torch_with_gpus()
    try:
        if torch is not None:
            torch.cuda.empty_cache()
    except RuntimeError as error:
        if not lost_gpu(error):
            raise


def peak_mib() -> float | None:
    """Return the peak allocation since then, summed over all GPUs; None if none is in use."""
    torch = _torch_with_gpus()
    if torch is None:
        return None
    peaks = [float(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count())]
    return sum(peaks) / MIB
