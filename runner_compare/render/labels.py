"""Format numbers and names of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_base.tables import shorten_paths
from runner_compare.model.data import ABSENT, CLUSTER, REPEAT, TEAM, Run, TableRow, key_label

CLUSTER_NOUNS = {"recall": "text", "tools": "function"}  # of tasks whose questions have given clusters
MAX_NAMES = 8  # the most rows that a sentence names


def get_cluster_noun(run: Run) -> str:
    """Return what a cluster of questions is called in a run, e.g. `template`. The default is `cluster`."""
    by = run.get_value(CLUSTER) or ""
    return by if by.isalpha() and by not in ("null", "auto") else CLUSTER_NOUNS.get(run.task, "cluster")


def format_number(value: float | None, extra_digits: int = 0) -> str:
    """Format a measurement to three digits, or without decimals if large: 0.0123, 4.57, 1,234.

    `extra_digits` are added to the usual ones.
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    is_large = value == int(value) or abs(value) >= 100
    return f"{value:,.{extra_digits}f}" if is_large else f"{value:.{3 + extra_digits}g}"


def round_up_to_three_digits(count: int) -> int:
    """Round a number of questions up to three digits, so that the stated power still holds."""
    step = int(max(1, 10 ** (len(str(count)) - 3)))
    return -(-count // step) * step


def format_rounded_count(count: int) -> str:
    return f"{round_up_to_three_digits(count):,}"


def format_count_interval(count: int, interval: tuple[int | None, int | None] | None) -> str:
    """Format a planned number with its interval, e.g. `214 (120 to 400)`."""
    low, high = interval or (None, None)
    if low is None:
        return format_rounded_count(count)
    return (
        f"{format_rounded_count(count)} ({format_rounded_count(low)} "
        f"{'or more' if high is None else f'to {format_rounded_count(high)}'})"
    )


def is_self_explanatory(key: str) -> bool:
    """Whether a value is clear without its config key, such as `nf4` for `quantization=nf4`."""
    return key.endswith(".name") or key == TEAM


def format_assignments(row: TableRow, keys: list[str]) -> str:
    """Return a row's config, e.g. `quantization=nf4, seed=1`."""
    return ", ".join(
        f"{row.config[key]}" if key == TEAM else f"{key_label(key)}={row.config[key]}"
        for key in keys
        if row.config[key] is not None
    )


def format_row_name(row: TableRow, keys: list[str]) -> str:
    values = [
        f"{row.config[key]}" if is_self_explanatory(key) else f"{key_label(key)}={row.config[key]}"
        for key in keys
        if row.config[key] is not None
    ]
    return " ".join(values) or row.run.job_id


def shorten_row_names(
    rows: Sequence[TableRow], keys: Sequence[str], max_chars: int, *, with_keys: bool = False
) -> list[str]:
    """Name rows by their config values. `with_keys` writes keys also before self-explanatory values."""
    values = {key: shorten_paths([f"{row.config[key]}" for row in rows]) for key in keys}
    differing = [key for key in keys if len({*values[key]}) > 1] or keys
    names = []
    for index, row in enumerate(rows):
        shown = [(key, values[key][index]) for key in differing if row.config[key] is not None]
        cut = [(key, value if len(value) <= max_chars else f"…{value[-max_chars:]}") for key, value in shown]
        assigned = [
            value
            if key == TEAM or (is_self_explanatory(key) and not with_keys)
            else f"{key_label(key)}={value}"
            for key, value in cut
        ]
        names.append(" ".join(assigned) or row.run.job_id)
    return names


def format_row_and_baseline_names(row: TableRow, keys: list[str]) -> str:
    """Name a row and its baseline, e.g. `nf4 vs none on task.split=test`."""
    if row.is_repeat:
        name = format_assignments(row, [key for key in keys if key != REPEAT]) or "the baseline"
        return f"{name} again ({REPEAT}={row.run.get_value(REPEAT)})"
    own_name, base_name, shared = get_row_and_baseline_names(row, keys)
    return f"{own_name} vs {base_name}{f' on {shared}' if shared else ''}"


def get_row_and_baseline_names(row: TableRow, keys: list[str]) -> tuple[str, str, str]:
    """Return a row's name, its baseline's name, and the config values that both have in common."""
    base = row.baseline
    assert base is not None
    own = [key for key in keys if row.config[key] != base.config[key]]
    shared = format_assignments(row, [key for key in keys if key not in own])
    name, base_name = (format_assignments(side, own) or side.run.job_id for side in (row, base))
    both = [key for key in own if row.config[key] is not None and base.config[key] is not None]
    # `nf4 vs none`, with keys that only one has in brackets
    if len(both) == 1 and is_self_explanatory(both[0]):
        more = [key for key in own if key not in both]
        name, base_name = (
            f"{side.config[both[0]]} ({format_assignments(side, more)})".removesuffix(" ()")
            for side in (row, base)
        )
    return name, base_name, shared
