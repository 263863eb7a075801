"""A comparison as text: numbers and the names of rows; effects.py words the effects."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runner_base.tables import short_paths
from runner_compare.model.data import ABSENT, REPEAT, TEAM, TableRow, label

MAX_NAMES = 8  # the most rows that a sentence names


def number(value: float | None, more: int = 0) -> str:
    """Return a measurement to three digits, or to the unit if it is large: 0.0123, 4.57, 1,234.

    `more`: so many digits more.
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    is_large = value == int(value) or abs(value) >= 100
    return f"{value:,.{more}f}" if is_large else f"{value:.{3 + more}g}"


def rounded_up(count: int) -> int:
    """Return a number of questions to three digits, rounded up so that the stated power holds."""
    step = int(max(1, 10 ** (len(str(count)) - 3)))
    return -(-count // step) * step


def about(count: int) -> str:
    """Return that number in words."""
    return f"{rounded_up(count):,}"


def about_between(count: int, between: tuple[int | None, int | None] | None) -> str:
    """Return a planned number with its interval: `214 (120 to 400)`; None: it has none."""
    low, high = between or (None, None)
    if low is None:
        return about(count)
    return f"{about(count)} ({about(low)} {'or more' if high is None else f'to {about(high)}'})"


def is_its_own_name(key: str) -> bool:
    """Whether the values of a key are known by themselves: nf4 needs no `quantization=` before
    it."""
    return key.endswith(".name") or key == TEAM


def assignments(row: TableRow, keys: list[str]) -> str:
    """Return a row's config: quantization=nf4, seed=1."""
    return ", ".join(
        f"{row.config[key]}" if key == TEAM else f"{label(key)}={row.config[key]}"
        for key in keys
        if row.config[key] is not None
    )


def name_of(row: TableRow, keys: list[str]) -> str:
    """Return the shortest name that distinguishes a row from the others: its values, or its job
    id."""
    values = [
        f"{row.config[key]}" if is_its_own_name(key) else f"{label(key)}={row.config[key]}"
        for key in keys
        if row.config[key] is not None
    ]
    return " ".join(values) or row.run.job_id


def short_names(rows: Sequence[TableRow], keys: Sequence[str], most: int) -> list[str]:
    """Return names by what differs among the rows: paths without what they share, other long values
    by their end."""
    values = {key: short_paths([f"{row.config[key]}" for row in rows]) for key in keys}
    differing = [key for key in keys if len({*values[key]}) > 1] or keys
    names = []
    for index, row in enumerate(rows):
        shown = [(key, values[key][index]) for key in differing if row.config[key] is not None]
        cut = [(key, value if len(value) <= most else f"…{value[-most:]}") for key, value in shown]
        assigned = [value if is_its_own_name(key) else f"{label(key)}={value}" for key, value in cut]
        names.append(" ".join(assigned) or row.run.job_id)
    return names


def versus(row: TableRow, keys: list[str]) -> str:
    """Return the two names, then the keys in which both agree: `nf4 vs none on task.split=test`."""
    if row.is_repeat:
        name = assignments(row, [key for key in keys if key != REPEAT]) or "the baseline"
        return f"{name} again ({REPEAT}={row.run.value(REPEAT)})"
    own_name, base_name, shared = sides(row, keys)
    return f"{own_name} vs {base_name}{f' on {shared}' if shared else ''}"


def sides(row: TableRow, keys: list[str]) -> tuple[str, str, str]:
    """Return the names of a run and its baseline by the keys in which they differ, and the shared
    keys."""
    base = row.baseline
    assert base is not None
    own = [key for key in keys if row.config[key] != base.config[key]]
    shared = assignments(row, [key for key in keys if key not in own])
    name, base_name = (assignments(side, own) or side.run.job_id for side in (row, base))
    both = [key for key in own if row.config[key] is not None and base.config[key] is not None]
    # `nf4 vs none`, with keys that only one has in brackets
    if len(both) == 1 and is_its_own_name(both[0]):
        more = [key for key in own if key not in both]
        name, base_name = (
            f"{side.config[both[0]]} ({assignments(side, more)})".removesuffix(" ()") for side in (row, base)
        )
    return name, base_name, shared
