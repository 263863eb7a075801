"""Describes at which batch sizes speculative decoding is faster."""

from __future__ import annotations

from runner.options.advise.speculation_gains import GUESSES, RecordedSpeedup
from runner_base import format_count


def describe_speedups(speedups: list[RecordedSpeedup], batch_size: int) -> list[str]:
    """Return one line per drafter with its measured speedups, and whether it is faster at `batch_size`."""
    lines = []
    for speculate in dict.fromkeys(gain.speculate for gain in speedups):
        own = [gain for gain in speedups if gain.speculate == speculate]
        here = next((gain for gain in own if gain.rows == batch_size), None)
        asked = f"{GUESSES}={speculate}"
        if here is None:
            said = f"not measured at {format_count(batch_size, 'row')}"
        elif here.is_faster is None:
            said = f"no difference shown at {format_count(batch_size, 'row')}"
        else:
            said = f"{'faster' if here.is_faster else 'slower'} at {format_count(batch_size, 'row')}"
        measured = ", ".join(_format_speedup(gain) for gain in own)
        recorded = f"recorded in {own[0].job_id}"
        lines.append(f"{asked}: {said}; measured speedups: {measured} ({recorded})")
    return lines


def _format_speedup(speedup: RecordedSpeedup) -> str:
    """Format a speedup with its confidence interval and its batch size."""
    return (
        f"{speedup.gain:.2f} [{speedup.low:.2f}, {speedup.high:.2f}] at {format_count(speedup.rows, 'row')}"
    )
