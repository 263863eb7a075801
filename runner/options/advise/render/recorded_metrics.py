"""Formats recorded accuracies and KL divergences with their confidence intervals."""

from __future__ import annotations

from runner.options.advise.accuracies import RecordedAccuracy
from runner.options.advise.recorded_kl import RecordedKl

KL_UNIT = " nats/token"


def format_accuracy(recorded: RecordedAccuracy) -> str:
    """Return an accuracy with its confidence interval, such as `33.5 % [27.3, 40.3] of 200`."""
    low, high = recorded.interval
    part = f" of the {recorded.asked:,}" if recorded.n < recorded.asked else ""
    return f"{100 * recorded.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {recorded.n:,}{part}"


def format_kl_divergence(recorded_kl: RecordedKl) -> str:
    """Return a KL divergence with its confidence interval, such as `KL 0.00048 [0.0003, 0.0006]
    nats/token`.
    """
    low, high = recorded_kl.low, recorded_kl.high
    ends = "" if low is None or high is None else f" [{low:.2g}, {high:.2g}]"
    return f"KL {recorded_kl.kl:.2g}{ends}{KL_UNIT}"
