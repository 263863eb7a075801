"""Scores that say little about a model: answers cut off by a limit, and verdicts that are all the
same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from runner_base.notes import Note, note
from runner_compare.metrics import BOUNDS, score

MOSTLY = 0.5  # from this share on, the score shows the limit rather than the model
LIMIT = "generation.max_new_tokens"


def why_more_would_not_decide(sides: Iterable[Mapping[str, float]]) -> Note | None:
    """Return why more questions of this kind would not decide between two jobs; None if they could."""
    counts = [count_cut_off(metrics) for metrics in sides]
    mostly = any(answers and cut_off / answers >= MOSTLY for cut_off, answers in counts)
    return note("mostly_cut_off") if mostly else None


def why_no_evidence(
    sides: Iterable[Mapping[str, float]], accuracies: Sequence[float | None]
) -> tuple[Note, Note] | None:
    """Return why two jobs that do equally badly show nothing, and what would show more; None if they do not.

    A candidate that is broken in the same way as its baseline would give the same verdicts.
    """
    is_none = all(accuracy == 0 for accuracy in accuracies)
    unread = [_unread(metrics) for metrics in sides]
    if all(answers and count / answers >= MOSTLY for count, answers in unread):
        return note("few_read", unread=unread, is_none=is_none), note("read_some")
    return (note("none_solved"), note("ask_easier")) if is_none else None


def _unread(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return how many answers no rule could read, of how many."""
    counted = score(metrics)
    return (metrics.get("no_answer", 0.0), counted[1]) if counted else (0.0, 0.0)


def what_tells_more(accuracies: Sequence[float | None]) -> Note | None:
    """Return which questions would tell more than these, if all answers of two jobs are right.

    The accuracies are those that are compared: of several answers to a question a vote is right
    where many are wrong.
    """
    return note("all_solved") if all(accuracy == 1 for accuracy in accuracies) else None


def count_cut_off(metrics: Mapping[str, float]) -> tuple[float, float]:
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
