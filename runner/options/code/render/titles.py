"""Titles of tables, and the line about the problems of a plan."""

from __future__ import annotations

from runner_base import format_count

BY_OUTCOME = "programs by outcome"


def format_problem_summary(problems: int, limit_s: int, memory_mib: int, processes: int) -> str:
    return (
        f"{format_count(problems, 'problem')}. Each program may use {limit_s} s of CPU time and "
        f"{memory_mib} MiB. Up to {format_count(processes, 'program')} at once"
    )
