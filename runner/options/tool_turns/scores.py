"""Numbers of turns and calls per scenario."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from runner.options.tool_turns.episode import Episode


def compute_turn_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return means per scenario. Failed calls are calls with a fault and answers with malformed calls."""
    return {
        "turns_per_scenario": fmean(episode.num_turns for episode in episodes),
        "calls_per_scenario": fmean(len(episode.calls) for episode in episodes),
        "failed_calls_per_scenario": fmean(_count_failed_calls(episode) for episode in episodes),
    }


def build_level_rows(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """Return the means for each level, in the order of the scenarios."""
    by_level: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_level.setdefault(episode.scenario.level, []).append(episode)
    return [
        {"level": level, "scenarios": len(some)}
        | {
            name.removesuffix("_per_scenario"): round(value, 2)
            for name, value in compute_turn_metrics(some).items()
        }
        for level, some in by_level.items()
    ]


def _count_failed_calls(episode: Episode) -> int:
    return episode.num_malformed + sum(result.fault is not None for _, result in episode.calls)
