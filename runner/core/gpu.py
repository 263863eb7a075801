"""GPU memory that torch has allocated, without importing torch: if nobody imported it, none is allocated."""

from __future__ import annotations

import sys
from typing import Any

from runner.core.machine import MIB


def _torch_with_gpus() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def restart_peak() -> None:
    """Reset the allocator's high-water marks to what is allocated now."""
    if (torch := _torch_with_gpus()) is not None:
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def peak_mib() -> float | None:
    """Return the peak allocation since then, summed over all GPUs; None if none is in use."""
    torch = _torch_with_gpus()
    if torch is None:
        return None
    peaks = [float(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count())]
    return sum(peaks) / MIB
