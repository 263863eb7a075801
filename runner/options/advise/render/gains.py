"""At which rows guessed tokens pay, as text."""

from __future__ import annotations

from runner.options.advise.gains import GUESSES, RecordedGain
from runner_base import counted


def describe_gains(gains: list[RecordedGain], rows: int) -> list[str]:
    """Return a line for each kind of guesses: at which rows they pay, and whether at those of the
    candidate."""
    lines = []
    for speculate in dict.fromkeys(gain.speculate for gain in gains):
        own = [gain for gain in gains if gain.speculate == speculate]
        here = next((gain for gain in own if gain.rows == rows), None)
        asked = f"{GUESSES}={speculate}"
        if here is None:
            said = f"not measured at {counted(rows, 'row')}"
        elif here.pays is None:
            said = f"no difference shown at {counted(rows, 'row')}"
        else:
            said = f"{'faster' if here.pays else 'slower'} at {counted(rows, 'row')}"
        measured = ", ".join(_describe_gain(gain) for gain in own)
        recorded = f"recorded in {own[0].job_id}"
        lines.append(f"{asked}: {said}; times as fast as without guesses: {measured} ({recorded})")
    return lines


def _describe_gain(gain: RecordedGain) -> str:
    """Return a gain with its interval: 0.58 [0.42, 0.69] at 4 rows."""
    return f"{gain.gain:.2f} [{gain.low:.2f}, {gain.high:.2f}] at {counted(gain.rows, 'row')}"
