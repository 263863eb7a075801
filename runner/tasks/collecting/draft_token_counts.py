"""Acceptance of draft tokens by category of text, because some texts are easier to predict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runner_base import Sample

ALL = "all"
Counts = tuple[list[int], list[int]]  # by the place in a guess: looked at, and right


def sum_draft_counts(counts: Iterable[Counts | None]) -> Counts | None:
    """Sum the draft token counts of several answers. Returns None without draft tokens."""
    known = [of_answer for of_answer in counts if of_answer is not None]
    if not known:
        return None
    looked_at, right = (
        [sum(place) for place in zip(*side, strict=True)] for side in zip(*known, strict=True)
    )
    return looked_at, right


def sample_category(sample: Sample) -> str | None:
    """Return the sample's category. None if the task defines no categories."""
    return sample.tool_category or sample.recall_kind or sample.category or sample.cluster


def acceptance_by_category(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return table rows with draft token acceptance: one per category and one for all. Empty for a
    single category.
    """
    guessed = [sample for sample in samples if sample.guessed and sample.reused_from is None]
    by_kind: dict[str, list[Sample]] = {}
    for sample in guessed:
        if (kind := sample_category(sample)) is not None:
            by_kind.setdefault(kind, []).append(sample)
    if len(by_kind) < 2:
        return []
    return [_acceptance_row(kind, of_kind) for kind, of_kind in sorted(by_kind.items())] + [
        _acceptance_row(ALL, guessed)
    ]


def _acceptance_row(category: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return a table row with the acceptance rate at each draft position and the tokens per step."""
    looked_at, right = sum_draft_counts(sample.guessed for sample in samples) or ([], [])
    by_place = {
        f"token_{place}": f"{accepted / tried:.0%}" if tried else "–"
        for place, (tried, accepted) in enumerate(zip(looked_at, right, strict=True), start=1)
    }
    steps = looked_at[0] if looked_at else 0
    a_step = round(1 + sum(right) / steps, 2) if steps else None
    return {"kind": category, "answers": len(samples), "guesses": steps, **by_place, "tokens_a_step": a_step}
