"""Titles of tables, and facts of a sweep."""

from __future__ import annotations

BESIDE_LIMITS = "between tokens, and beside what the machine can do"
WITHOUT_GUESSES = "decoding with guesses and without, by turns"
BY_CLOCK = "requests that come by a clock"
GUESSES_BY_KIND = "guessed tokens by kind of text: right ones of those that were looked at"
RULER_SCORES = "RULER's score (share of the asked values in the answer) beside exact answers, %"


def sustainable_rate_text(rate: float | None, is_highest_tried: bool) -> str:
    """Return the rate up to which an engine sustains the requests."""
    if rate is None:
        return "none of the rates that were tried"
    more = " or more: the highest that was tried" if is_highest_tried else ""
    return f"{rate:g} requests/s{more}"
