"""Titles of tables, and texts of a sweep's facts."""

from __future__ import annotations

BESIDE_LIMITS = "time between tokens, and share of the machine's limits"
WITHOUT_GUESSES = "decoding with and without draft tokens, in turns"
BY_CLOCK = "load test: requests at a given rate"
GUESSES_BY_KIND = "draft tokens by kind of text: accepted of those that were checked"
RULER_SCORES = "RULER score (share of the requested values in the answer) and exact answers, in %"


def sustainable_rate_text(rate: float | None, is_highest_tried: bool) -> str:
    """Return as text the highest request rate that an engine sustains."""
    if rate is None:
        return "none of the tested rates"
    more = " or more (the highest tested rate)" if is_highest_tried else ""
    return f"{rate:g} requests/s{more}"
