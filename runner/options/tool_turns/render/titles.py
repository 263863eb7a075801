"""Titles of tables, and the line about the scenarios of a plan."""

from __future__ import annotations

from runner_base import format_count

TURNS_BY_LEVEL = "turns and calls by level"


def format_scenario_summary(scenarios: int, levels: int, environments: int, max_turns: int) -> str:
    return (
        f"{format_count(scenarios, 'scenario')} of {format_count(levels, 'level')} in "
        f"{format_count(environments, 'environment')}, with at most {format_count(max_turns, 'answer')} each"
    )
