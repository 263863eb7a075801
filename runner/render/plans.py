"""Texts of a grid's plan, other than its notes."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import format_count, format_duration

HAS_ALL_COLUMNS = "print=full shows them"


def job_state_text(state: str, is_duplicate: bool) -> str:
    return f"{state} (listed twice)" if is_duplicate else state


def format_memory_lines(
    process_mib: float, main_mib: float, is_limited: bool, gpus_mib: Sequence[float]
) -> list[str]:
    """Return lines that explain a plan's memory columns and name the free memory of the machine and of
    each GPU.
    """
    limit = " (limited by the control group)" if is_limited else ""
    free = [f"{main_mib:,.0f} MiB of main memory{limit}"]
    free += [f"{mib:,.0f} MiB of GPU {number}" for number, mib in enumerate(gpus_mib)]
    return [
        f"Memory is predicted. Peak: weights + KV cache + activations, without {process_mib:.0f} MiB of the process.",
        f"Free: {', '.join(free)}",
    ]


def format_plan_total_line(
    summary: str, models: int, is_per_worker: bool, seconds: float | None, spread: float, left_out: int
) -> str:
    """Return the number of jobs, the number of models to load, and the total time, as one line."""
    each = "once per worker" if is_per_worker else "once"
    parts = [summary]
    if models:
        parts.append(f"{format_count(models, 'model')} to load, at most {each}")
    if seconds is not None:
        unknown = f" without {format_count(left_out, 'job')} of unknown time" if left_out else ""
        parts.append(f"one after another {format_duration(seconds)} ± {spread:.0%}{unknown}")
    return " · ".join(parts)
