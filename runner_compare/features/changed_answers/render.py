"""Sentences on how many answers speculative decoding has changed."""

from __future__ import annotations

from runner_compare.features.changed_answers.compute import ChangedAnswers


def changed_answers_sentence(names: str, changed_answers: ChangedAnswers) -> str:
    """Return a sentence on how many answers of the named rows speculative decoding changed."""
    low, high = changed_answers.interval
    if not changed_answers.num_changed:
        over = f" over {changed_answers.num_clusters:,} clusters" if changed_answers.num_clusters else ""
        exact = "" if over else "exact "
        bound = f"up to {100 * high:.1f} % may differ ({exact}two-sided 95 % interval{over})"
        return f"{names}: none of {changed_answers.num_answers:,} answers has another text; {bound}"
    ends = f"[{100 * low:.1f}, {100 * high:.1f}] %"
    ends += f", over {changed_answers.num_clusters:,} clusters" if changed_answers.num_clusters else ""
    return (
        f"{names}: {changed_answers.num_changed:,} of "
        f"{changed_answers.num_answers:,} answers have another text {ends}"
    )
