"""How many answers guessed tokens have changed, in words."""

from __future__ import annotations

from runner_compare.features.changed_answers.compute import ChangedAnswers


def changed_sentence(names: str, found: ChangedAnswers) -> str:
    """Return what is said of a row."""
    low, high = found.interval
    if not found.changed:
        over = f" over {found.family_count:,} families" if found.family_count else ""
        exact = "" if over else "exact "
        bound = f"up to {100 * high:.1f} % may differ ({exact}two-sided 95 % interval{over})"
        return f"{names}: none of {found.answers:,} answers has another text; {bound}"
    ends = f"[{100 * low:.1f}, {100 * high:.1f}] %"
    ends += f", over {found.family_count:,} families" if found.family_count else ""
    return f"{names}: {found.changed:,} of {found.answers:,} answers have another text {ends}"
