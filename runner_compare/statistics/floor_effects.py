"""Detect scores that say little about a model: many cut-off answers, or the same verdict everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from runner_base.notes import Note, note
from runner_compare.metrics import BOUNDS, correct_and_total

MOSTLY = 0.5  # from this share on, the score shows the limit rather than the model
LIMIT = "generation.max_new_tokens"


def cut_off_note(metrics_of_runs: Iterable[Mapping[str, float]]) -> Note | None:
    """Return a note if most answers were cut off and more questions would not help; else None."""
    counts = [count_cut_off_answers(metrics) for metrics in metrics_of_runs]
    mostly = any(answers and cut_off / answers >= MOSTLY for cut_off, answers in counts)
    return note("mostly_cut_off") if mostly else None


def no_evidence_notes(
    metrics_of_runs: Iterable[Mapping[str, float]], accuracies: Sequence[float | None]
) -> tuple[Note, Note] | None:
    """Return notes on why two equally bad jobs show nothing and how to fix it; None otherwise.

    A candidate that is broken in the same way as its baseline would give the same verdicts.
    """
    is_none = all(accuracy == 0 for accuracy in accuracies)
    unread = [_count_unread_answers(metrics) for metrics in metrics_of_runs]
    if all(answers and count / answers >= MOSTLY for count, answers in unread):
        return note("few_read", unread=unread, is_none=is_none), note("read_some")
    return (note("none_solved"), note("ask_easier")) if is_none else None


def _count_unread_answers(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return the number of answers that no extractor could read, and of all answers."""
    counted = correct_and_total(metrics)
    return (metrics.get("no_answer", 0.0), counted[1]) if counted else (0.0, 0.0)


def all_solved_note(accuracies: Sequence[float | None]) -> Note | None:
    """Return a note that harder questions are needed if both jobs solve all questions; else None.

    The accuracies are those that are compared: a vote may be right where many answers are
    wrong.
    """
    return note("all_solved") if all(accuracy == 1 for accuracy in accuracies) else None


def count_cut_off_answers(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return the numbers of cut-off answers and of all answers with a verdict; zeros without
    verdicts.

    Each of several answers per question counts, while the job's own count is of questions.
    """
    counted = correct_and_total(metrics)
    if counted is None:
        return 0.0, 0.0
    cut_off, each = metrics.get("cut_off", 0.0), metrics.get("answers_each", 1.0)
    if each <= 1:
        return cut_off, counted[1]
    answers = counted[1] * each
    worst, best = (metrics.get(key, 0.0) for key in BOUNDS[:2])
    return max(cut_off * each, round((best - worst) * answers)), answers
