"""Texts of a grid's plan, except its notes."""

from __future__ import annotations

from collections.abc import Sequence

HAS_ALL_COLUMNS = "a file or a pipe has them all"


def state_text(state: str, is_duplicate: bool) -> str:
    return f"{state} (the same job as one above)" if is_duplicate else state


def memory_line(process_mib: float, main_mib: float, is_limited: bool, gpus_mib: Sequence[float]) -> str:
    """Return an explanation of the plan's memory columns, and the free main and GPU memory."""
    limit = " below the control group's limit" if is_limited else ""
    free = [f"{main_mib:,.0f} MiB of main memory{limit}"]
    free += [f"{mib:,.0f} MiB of GPU {number}" for number, mib in enumerate(gpus_mib)]
    return (
        "memory as predicted; peak: weights, KV cache and activations together, without the "
        f"{process_mib:.0f} MiB of the worker process. Free: {', '.join(free)}"
    )
