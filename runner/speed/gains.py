"""Reports the speedup by speculative decoding in a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.speed.cells import Cell
from runner.speed.speculation_pairs import ACCEPTED, DIFFERING, GAIN, OFF_SPEED, SPEED
from runner_base.notes import Note, note
from runner_base.spreads import compute_median_interval, compute_min_values_for_interval
from runner_compare.statistics import compute_clopper_pearson_interval


def compute_gain_interval(cell: Cell) -> tuple[float, float] | None:
    """Return the confidence interval of the median speedup by speculative decoding. None with too few
    runs.
    """
    return compute_median_interval(cell.values(GAIN))


def describe_speculation_gain(interval: tuple[float, float] | None) -> str:
    """Describe whether a confidence interval shows a speedup, a slowdown or neither."""
    if interval is None:
        return "too few pairs to tell"
    low, high = interval
    return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"


def build_speculation_gain_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return table rows with the speeds with and without speculative decoding, the speedup and the
    acceptance rate.
    """
    table = []
    for cell in cells:
        if GAIN not in cell.metric_names:
            continue
        row: dict[str, Any] = {"batch_size": cell.batch_size, "prompt_tokens": cell.prompt_tokens}
        row |= {"new_tokens": cell.new_tokens, "with_tok_per_s": round(cell.median(SPEED), 1)}
        row |= {"without_tok_per_s": round(cell.median(OFF_SPEED), 1)}
        row["times_as_fast"] = round(cell.median(GAIN), 3)
        ends = compute_gain_interval(cell)
        row["interval_95"] = None if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"
        row["verdict"] = describe_speculation_gain(ends)
        right = cell.median(ACCEPTED) if ACCEPTED in cell.metric_names else None
        row["guessed_right"] = None if right is None else f"{right:.0%}"
        table.append(row)
    return table


def compute_speculation_gain_metrics(cells: Sequence[Cell]) -> dict[str, float]:
    """Return the confidence intervals of the speedups, and the number of answers that speculative
    decoding changed.
    """
    compared = [cell for cell in cells if GAIN in cell.metric_names]
    found: dict[str, float] = {}
    for cell in compared:
        if (ends := compute_gain_interval(cell)) is not None:
            low, high = ends
            found |= {f"{GAIN}_low/{cell.key}": low, f"{GAIN}_high/{cell.key}": high}
    if compared:
        found[DIFFERING] = sum(sum(cell.values(DIFFERING)) for cell in compared)
    return found


def make_speculation_gain_notes(cells: Sequence[Cell], dtype: str, has_real_prompts: bool) -> list[Note]:
    compared = [cell for cell in cells if GAIN in cell.metric_names]
    if not compared:
        return []
    found = [] if has_real_prompts else [note("random_prompts")]
    if any(compute_gain_interval(cell) is None for cell in compared):
        found.append(note("too_few_repeats", fewest=compute_min_values_for_interval()))
    differing = int(sum(sum(cell.values(DIFFERING)) for cell in compared))
    answers = sum(cell.batch_size * len(cell.repeats) for cell in compared)
    interval_95 = compute_clopper_pearson_interval(differing, answers)
    differ = note("answers_differ", differing=differing, answers=answers, interval=interval_95, dtype=dtype)
    return [*found, differ]
