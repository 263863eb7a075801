"""What guessed tokens gain in each cell of a sweep, as rows, metrics and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.speed.by_turns import ACCEPTED, DIFFERING, GAIN, OFF_SPEED, SPEED
from runner.speed.cells import Cell
from runner_base.notes import Note, note
from runner_base.spreads import fewest_with_interval, median_interval
from runner_compare.statistics import exact_interval


def interval(cell: Cell) -> tuple[float, float] | None:
    """Return the interval of a cell's gain over its pairs, whatever their noise is; None with too
    few of them."""
    return median_interval(cell.values(GAIN))


def verdict(ends: tuple[float, float] | None) -> str:
    """Say whether an interval shows a gain or a loss."""
    if ends is None:
        return "too few pairs to tell"
    low, high = ends
    return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the table: the speeds of both, the ratio of the pairs with its interval, and how much
    was guessed right."""
    table = []
    for cell in cells:
        if GAIN not in cell.figures:
            continue
        row: dict[str, Any] = {"batch_size": cell.batch_size, "prompt_tokens": cell.prompt_tokens}
        row |= {"new_tokens": cell.new_tokens, "with_tok_per_s": round(cell.median(SPEED), 1)}
        row |= {"without_tok_per_s": round(cell.median(OFF_SPEED), 1)}
        row["times_as_fast"] = round(cell.median(GAIN), 3)
        ends = interval(cell)
        row["interval_95"] = None if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"
        row["verdict"] = verdict(ends)
        right = cell.median(ACCEPTED) if ACCEPTED in cell.figures else None
        row["guessed_right"] = None if right is None else f"{right:.0%}"
        table.append(row)
    return table


def metrics(cells: Sequence[Cell]) -> dict[str, float]:
    """Return the ends of the intervals that there are, and how many answers differ."""
    compared = [cell for cell in cells if GAIN in cell.figures]
    found: dict[str, float] = {}
    for cell in compared:
        if (ends := interval(cell)) is not None:
            low, high = ends
            found |= {f"{GAIN}_low/{cell.key}": low, f"{GAIN}_high/{cell.key}": high}
    if compared:
        found[DIFFERING] = sum(sum(cell.values(DIFFERING)) for cell in compared)
    return found


def notes(cells: Sequence[Cell], dtype: str, are_texts: bool) -> list[Note]:
    """Return what a reader of the gains has to know."""
    compared = [cell for cell in cells if GAIN in cell.figures]
    if not compared:
        return []
    found = [] if are_texts else [note("random_prompts")]
    if any(interval(cell) is None for cell in compared):
        found.append(note("too_few_repeats", fewest=fewest_with_interval()))
    differing = int(sum(sum(cell.values(DIFFERING)) for cell in compared))
    answers = sum(cell.batch_size * len(cell.repeats) for cell in compared)
    interval_95 = exact_interval(differing, answers)
    differ = note("answers_differ", differing=differing, answers=answers, interval=interval_95, dtype=dtype)
    return [*found, differ]
