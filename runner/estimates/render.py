"""Texts of time estimates in plans."""

from __future__ import annotations

from collections.abc import Mapping

from runner.estimates.speed import Estimate, EstimateBasis
from runner_base import format_duration

TIME_SOURCES: Mapping[EstimateBasis, str] = {
    EstimateBasis.answered: "all answers are recorded",
    EstimateBasis.recorded: "recorded jobs",
    EstimateBasis.calibrated: "measured layers",
    EstimateBasis.guessed: "rough estimate",
}


def format_estimated_time_and_source(estimate: Estimate | None) -> tuple[str, str]:
    """Return two texts: the estimated time with its uncertainty, and the basis of the estimate."""
    if estimate is None:
        return "", ""
    source = TIME_SOURCES[estimate.source]
    if estimate.source is EstimateBasis.answered:
        return format_duration(0), source
    if estimate.ends is not None:
        (least, most), error = estimate.ends, f"± {estimate.ends[1].spread:.0%}"
        if format_duration(least.seconds) != format_duration(most.seconds):
            return (f"{format_duration(least.seconds)} – {format_duration(most.seconds)} {error}", source)
    if estimate.is_only_bounded:
        return f"≤ {format_duration(estimate.seconds * (1 + estimate.spread))}", source
    return f"{format_duration(estimate.seconds)} ± {estimate.spread:.0%}", source
