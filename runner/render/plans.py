"""Texts of a grid's plan, other than its notes."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import format_count, format_duration

HAS_ALL_COLUMNS = "print=full shows them"


def job_state_text(state: str, is_duplicate: bool) -> str:
    return f"{state} (listed twice)" if is_duplicate else state


def format_available_memory_lines(
    process_mib: float,
    free_ram_mib: float,
    is_limited: bool,
    free_gpu_mib: Sequence[float],
    max_prompt_cache_mib: float = 0.0,
) -> list[str]:
    limit = " (limited by the control group)" if is_limited else ""
    free = [f"{free_ram_mib:,.0f} MiB of main memory{limit}"]
    free += [f"{mib:,.0f} MiB of GPU {number}" for number, mib in enumerate(free_gpu_mib)]
    cache = []
    if max_prompt_cache_mib:
        cache.append(
            f"Prompt cache: earlier prompts take up to {max_prompt_cache_mib:,.0f} MiB of the free memory. "
            "It gives memory back when sequences need it."
        )
    return [
        f"Memory is predicted for answers of maximum length. Each process needs {process_mib:.0f} MiB more.",
        f"Free memory: {', '.join(free)}",
        *cache,
    ]


def format_prompt_cache_cell(max_mib: float) -> str:
    return f"up to {max_mib:,.0f}" if max_mib else ""


def format_plan_total_line(
    summary: str,
    num_models: int,
    is_per_worker: bool,
    seconds: float | None,
    relative_spread: float,
    is_upper_bound: bool,
    num_unknown_times: int,
) -> str:
    parts = [summary]
    if num_models:
        parts.append(f"{format_count(num_models, 'model')} to load{' per worker' * is_per_worker}")
    if seconds is not None:
        unknown = (
            f" without {format_count(num_unknown_times, 'job')} of unknown time" if num_unknown_times else ""
        )
        if is_upper_bound:
            time = f"at most {format_duration(seconds * (1 + relative_spread))}"
        else:
            time = f"{format_duration(seconds)} ± {relative_spread:.0%}"
        parts.append(f"total time {time}{unknown}")
    return " · ".join(parts)
