"""Creates notes on comparisons that cannot show a difference, e.g. because most answers were cut off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from runner_base.notes import Note, note
from runner_compare.metrics import BOUNDS, correct_and_total

MOSTLY = 0.5  # from this share on, the score shows the limit rather than the model
LIMIT = "generation.max_new_tokens"


def create_cut_off_answers_note(metrics_per_run: Iterable[Mapping[str, float]]) -> Note | None:
    """Create a note if most answers were cut off. More questions would not help in this case."""
    counts = [count_cut_off_answers(metrics) for metrics in metrics_per_run]
    mostly = any(answers and cut_off / answers >= MOSTLY for cut_off, answers in counts)
    return note("mostly_cut_off") if mostly else None


def create_unsolved_or_unreadable_notes(
    metrics_per_run: Iterable[Mapping[str, float]], accuracies: Sequence[float | None]
) -> tuple[Note, Note] | None:
    """Create notes if both jobs solve no question, or if most of their answers are unreadable.

    A candidate that is broken in the same way as its baseline would give the same verdicts.
    """
    is_none = all(accuracy == 0 for accuracy in accuracies)
    unread = [_count_unread_answers(metrics) for metrics in metrics_per_run]
    if all(answers and count / answers >= MOSTLY for count, answers in unread):
        return note("few_read", unread=unread, is_none=is_none), note("read_some")
    return (note("none_solved"), note("ask_easier")) if is_none else None


def _count_unread_answers(metrics: Mapping[str, float]) -> tuple[float, float]:
    counted = correct_and_total(metrics)
    return (metrics.get("no_answer", 0.0), counted[1]) if counted else (0.0, 0.0)


def all_solved_note(accuracies: Sequence[float | None]) -> Note | None:
    """Create a note that recommends harder questions if both jobs solve all questions.

    The accuracies are those that are compared: a vote may be right where many answers are
    wrong.
    """
    return note("all_solved") if all(accuracy == 1 for accuracy in accuracies) else None


def count_cut_off_answers(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Return the numbers of cut-off answers and of all answers with a verdict.

    Counts each of several answers per question. Returns zeros for a job without verdicts.
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
