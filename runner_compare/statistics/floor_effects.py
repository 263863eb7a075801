"""Scores that say little about a model: answers cut off by a limit, and verdicts that are all the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runner_compare.metrics import score

NOTED_SHARE = 0.1  # from this share of cut-off answers on, the limit lowers the score noticeably
MOSTLY = 0.5  # from this share on, the score shows the limit rather than the model
LIMIT = "generation.max_new_tokens"


def cut_off_words(metrics: Mapping[str, float], params: Mapping[str, str]) -> str:
    """Return `20 of 20 cut off at 64 tokens: raise generation.max_new_tokens`; empty if few answers or none are."""
    share = _cut_off_share(metrics)
    if share < NOTED_SHARE:
        return ""
    at, fix = (f" at {limit} tokens", f"raise {LIMIT}") if (limit := params.get(LIMIT)) else ("", "raise its limit")
    return f"{metrics['cut_off']:,.0f} of {metrics['n']:,.0f} cut off{at}: {fix}"


def why_more_would_not_decide(sides: Iterable[Mapping[str, float]]) -> str:
    """Say why more questions of this kind would not decide between two jobs; empty if they could."""
    return "most answers are cut off" if any(_cut_off_share(metrics) >= MOSTLY for metrics in sides) else ""


def what_tells_more(sides: Iterable[Mapping[str, float]]) -> str:
    """Say which questions would tell more than these, if all verdicts of two jobs are the same; empty otherwise."""
    scores = [score(metrics) for metrics in sides]
    if all(it is not None and it[0] == 0 for it in scores):
        return "no question is solved by either: easier ones would tell more"
    if all(it is not None and it[0] == it[1] for it in scores):
        return "every question is solved by both: harder ones would tell more"
    return ""


def _cut_off_share(metrics: Mapping[str, float]) -> float:
    """Return the share of cut-off answers among those with a verdict; 0 for a job without verdicts."""
    counted = score(metrics)
    return metrics.get("cut_off", 0.0) / counted[1] if counted and counted[1] else 0.0
