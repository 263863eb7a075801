"""Titles of tables, and the line about the prompts of a plan."""

from __future__ import annotations

from runner_base import format_count

BY_KIND = "accuracy by instruction, the most difficult first"
BY_LEVEL = "accuracy by number of instructions in the prompt"


def format_prompt_summary(prompts: int, instructions: int, kinds: int, excluded: int) -> str:
    left_out = f". {format_count(excluded, 'prompt')} left out (task.exclude_kinds)" if excluded else ""
    return (
        f"{format_count(prompts, 'prompt')} with {format_count(instructions, 'instruction')} "
        f"of {format_count(kinds, 'kind')}{left_out}"
    )
