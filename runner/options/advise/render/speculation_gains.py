"""Describes at which batch sizes speculative decoding is faster."""

from __future__ import annotations

from runner.options.advise.speculation_gains import GUESSES, RecordedSpeedup

FINDINGS = {True: "faster", False: "slower", None: "no difference shown"}


def describe_speedups(speedups: list[RecordedSpeedup], batch_size: int) -> list[str]:
    """Return one line per drafter: whether it is faster at `batch_size`, and its measured speedups."""
    lines = []
    for speculate in dict.fromkeys(gain.speculate for gain in speedups):
        own = [gain for gain in speedups if gain.speculate == speculate]
        here = next((gain for gain in own if gain.rows == batch_size), None)
        asked = f"{GUESSES}={speculate}"
        finding = "not measured" if here is None else FINDINGS[here.is_faster]
        measured = ", ".join(_format_speedup(gain) for gain in own)
        lines.append(
            f"{asked}: {finding} at batch size {batch_size}. Measured speedups [95 %]: {measured}, recorded in "
            f"{own[0].job_id}"
        )
    return lines


def _format_speedup(speedup: RecordedSpeedup) -> str:
    """Format a speedup with its confidence interval, its batch size and its finding."""
    finding = FINDINGS[speedup.is_faster]
    interval = f"[{speedup.low:.2f}, {speedup.high:.2f}]"
    return f"{speedup.gain:.2f} {interval} at batch size {speedup.rows} ({finding})"
