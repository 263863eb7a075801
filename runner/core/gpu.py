"""What torch has held of the GPUs, without importing torch: where nobody has, there is nothing to ask."""

from __future__ import annotations

import sys
from typing import Any

from runner.core.machine import MIB


def _torch_with_gpus() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def restart_peak() -> None:
    """Start the allocator's high-water marks anew from what is held now."""
    if (torch := _torch_with_gpus()) is not None:
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def peak_mib() -> float | None:
    """Return what was held at most since then, of all GPUs together; None where none is in use."""
    torch = _torch_with_gpus()
    if torch is None:
        return None
    held = [float(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count())]
    return sum(held) / MIB
