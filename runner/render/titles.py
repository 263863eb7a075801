"""Titles of tables, and texts for the facts of a sweep."""

from __future__ import annotations

BESIDE_LIMITS = "time between tokens, and fraction of the hardware limits"
WITHOUT_GUESSES = "decoding speed with and without draft tokens"
BY_CLOCK = "load test: requests at a given rate"
GUESSES_BY_KIND = "acceptance rate of draft tokens by text category"
DEGENERATION_BY_LENGTH = "degenerate answers by length"
RULER_SCORES = "RULER score (fraction of requested values found in the answer) and exact match, in %"


def format_sustainable_request_rate(rate: float | None, is_highest_tried: bool) -> str:
    if rate is None:
        return "none of the tested rates"
    more = " or more (the highest tested rate)" if is_highest_tried else ""
    return f"{rate:g} requests/s{more}"
