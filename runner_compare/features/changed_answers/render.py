"""Formats sentences on the answers that speculative decoding changed."""

from __future__ import annotations

from runner_compare.features.changed_answers.compute import ChangedAnswers


def format_changed_answers_sentence(names: str, changed_answers: ChangedAnswers) -> str:
    low, high = changed_answers.interval
    if not changed_answers.num_changed:
        over = f" over {changed_answers.num_clusters:,} clusters" if changed_answers.num_clusters else ""
        exact = "" if over else "exact "
        bound = f"the true rate is at most {100 * high:.1f} % ({exact}two-sided 95 % interval{over})"
        return f"{names}: none of {changed_answers.num_answers:,} answers changed; {bound}"
    ends = f"[{100 * low:.1f}, {100 * high:.1f}] %"
    ends += f", over {changed_answers.num_clusters:,} clusters" if changed_answers.num_clusters else ""
    return (
        f"{names}: {changed_answers.num_changed:,} of {changed_answers.num_answers:,} answers changed {ends}"
    )
