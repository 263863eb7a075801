"""Scores that say little about a model: answers cut off by a limit, and verdicts that are all the
same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from runner_compare.metrics import BOUNDS, score

NOTED_SHARE = 0.1  # from this share of cut-off answers on, the limit lowers the score noticeably
MOSTLY = 0.5  # from this share on, the score shows the limit rather than the model
LIMIT = "generation.max_new_tokens"


def cut_off_words(metrics: Mapping[str, float], params: Mapping[str, str]) -> str:
    """Return `20 of 20 cut off at 64 tokens: raise generation.max_new_tokens`; empty if few answers
    or none are."""
    cut_off, answers = _cut_off(metrics)
    if not answers or cut_off / answers < NOTED_SHARE:
        return ""
    at, fix = (
        (f" at {limit} tokens", f"raise {LIMIT}") if (limit := params.get(LIMIT)) else ("", "raise its limit")
    )
    if metrics.get("stopped_by_context", 0) >= cut_off:  # no larger limit would help
        at, fix = (" where the model's context is full", "shorten the prompts or extend it (rope=yarn)")
    what = " answers" if answers > metrics["n"] else ""
    return f"{cut_off:,.0f} of {answers:,.0f}{what} cut off{at}: {fix}"


def why_more_would_not_decide(sides: Iterable[Mapping[str, float]]) -> str:
    """Say why more questions of this kind would not decide between two jobs; empty if they
    could."""
    counts = [_cut_off(metrics) for metrics in sides]
    mostly = any(answers and cut_off / answers >= MOSTLY for cut_off, answers in counts)
    return "most answers are cut off" if mostly else ""


def why_no_evidence(
    sides: Iterable[Mapping[str, float]], accuracies: Sequence[float | None]
) -> tuple[str, str]:
    """Return why two jobs that do equally badly show nothing, and what would show more; empty texts
    if they do not.

    A candidate that is broken in the same way as its baseline would give the same verdicts.
    """
    unread = [_unread(metrics) for metrics in sides]
    if all(answers and count / answers >= MOSTLY for count, answers in unread):
        counts = " and ".join(f"{count:,.0f} of {answers:,.0f}" for count, answers in unread)
        few = "no answer" if all(accuracy == 0 for accuracy in accuracies) else "few answers"
        return f"{few} could be read on either side ({counts} are missing)", "read some of them"
    if all(accuracy == 0 for accuracy in accuracies):
        return "no question is solved by either", "easier ones would tell more"
    return "", ""


def _unread(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return how many answers no rule could read, of how many."""
    counted = score(metrics)
    return (metrics.get("no_answer", 0.0), counted[1]) if counted else (0.0, 0.0)


def what_tells_more(accuracies: Sequence[float | None]) -> str:
    """Say which questions would tell more than these, if all answers of two jobs are right.

    The accuracies are those that are compared: of several answers to a question a vote is right
    where many are wrong.
    """
    if all(accuracy == 1 for accuracy in accuracies):
        return "every question is solved by both: harder ones would tell more"
    return ""


def _cut_off(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return how many answers were cut off, of how many that have a verdict; zeros for a job
    without verdicts.

    Of several answers to a question, each counts: the job's own count has the questions of which
    all were cut off.
    """
    counted = score(metrics)
    if counted is None:
        return 0.0, 0.0
    cut_off, each = metrics.get("cut_off", 0.0), metrics.get("answers_each", 1.0)
    if each <= 1:
        return cut_off, counted[1]
    answers = counted[1] * each
    worst, best = (metrics.get(key, 0.0) for key in BOUNDS[:2])
    return max(cut_off * each, round((best - worst) * answers)), answers
