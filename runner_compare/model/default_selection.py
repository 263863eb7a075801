"""Selects the runs that are compared by default: the newest grid, and the runs that are comparable with
it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from runner_base import format_count, join_first_names, print_message
from runner_compare.model.data import Run, key_label
from runner_compare.model.selection import has_values, parse_config_values
from runner_compare.ways import PROMPT_KEYS

SERVER = "model.base_url"
# Runs that differ in one of these have other questions or prompts; a table may have several splits.
COMPARABLE_BY = (
    *("task.data", "task.answers", "task.subset", "task.limit", "task.offset", "task.shuffle_seed"),
    *(key for key in PROMPT_KEYS if key != "model."),
    SERVER,
)
# Options by which the user says which runs are compared, or that what cannot be paired is wanted,
# too
CHOSEN_BY = ("all", "grid", "runs", "where", "by", "pool", "seeds", "teams", "unpaired", "flips", "files", "lm_eval",
             "results")  # fmt: skip


def select_newest_comparable_runs(options: argparse.Namespace, runs: list[Run]) -> list[Run]:
    """Select the newest comparable runs of each task. Prints which runs are excluded.

    If an option selects runs, all given runs are returned.
    """
    if any(getattr(options, name) for name in CHOSEN_BY):
        return runs
    baseline = parse_config_values(options.baseline, runs, "--baseline") if options.baseline else {}
    keys = [key for key in COMPARABLE_BY if key not in baseline]
    chosen = []
    for task in dict.fromkeys(run.task for run in runs):
        of_task = [run for run in runs if run.task == task]
        group = _find_newest_comparable_runs(of_task, keys, baseline)
        chosen += group
        if len(group) < len(of_task):
            ids = {run.run_id for run in group}
            print_message(
                _format_excluded_runs_message(
                    task, group, [run for run in of_task if run.run_id not in ids], keys
                )
            )
    return chosen


def _find_newest_comparable_runs(runs: list[Run], keys: Sequence[str], baseline: dict[str, str]) -> list[Run]:
    """Return the newest runs that are comparable with each other.

    The given runs are sorted newest first. All jobs of a grid belong to one group.
    """
    if not any(run.correct_and_total or run.likelihood_unit for run in runs):
        return runs  # measurements ask no questions
    for newest in runs:
        grid = [run for run in runs if newest.grid and run.grid == newest.grid] or [newest]
        asked = {_key_values(run, keys) for run in grid}
        group = [run for run in runs if _key_values(run, keys) in asked or run in grid]
        if len(group) > 1 and (not baseline or any(has_values(run, baseline) for run in group)):
            return group
    return runs


def _key_values(run: Run, keys: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(run.get_value(key) for key in keys)


def _format_excluded_runs_message(
    task: str, group: Sequence[Run], excluded_runs: Sequence[Run], keys: Sequence[str]
) -> str:
    """Describe which runs are excluded and why, and name the options that include them."""
    values = {key: {run.get_value(key) for run in group} for key in keys}
    why: Counter[str] = Counter()
    for run in excluded_runs:
        differing = [key for key in keys if run.get_value(key) not in values[key]]
        why[" ".join("another server or none" if key == SERVER and run.get_value(key) is None else
                     f"{key_label(key)}={run.get_value(key)}" for key in differing)] += 1  # fmt: skip
    reasons = join_first_names(
        [f"{count} with {settings or 'other combinations'}" for settings, count in why.most_common()], 4
    )
    omitted = format_count(len(excluded_runs), "run is", "runs are")
    return (
        f"{task}: {omitted} not comparable with the newest runs, and omitted ({reasons}). "
        "Use --all to include every run, or select runs with --grid, --where or --runs"
    )
