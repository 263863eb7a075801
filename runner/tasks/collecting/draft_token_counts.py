"""Computes the acceptance rate of draft tokens per category of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runner_base import Sample

ALL = "all"
Counts = tuple[list[int], list[int]]  # by the place in a guess: looked at, and right


def sum_draft_token_counts(counts: Iterable[Counts | None]) -> Counts | None:
    """Sum the draft token counts of several answers. Returns None without draft tokens."""
    known = [of_answer for of_answer in counts if of_answer is not None]
    if not known:
        return None
    looked_at, right = (
        [sum(place) for place in zip(*side, strict=True)] for side in zip(*known, strict=True)
    )
    return looked_at, right


def get_sample_category(sample: Sample) -> str | None:
    return sample.tool_category or sample.recall_kind or sample.category or sample.cluster


def build_draft_acceptance_rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return table rows with the acceptance rate per text category. [] if there is only one category."""
    guessed = [sample for sample in samples if sample.guessed and sample.reused_from is None]
    by_kind: dict[str, list[Sample]] = {}
    for sample in guessed:
        if (kind := get_sample_category(sample)) is not None:
            by_kind.setdefault(kind, []).append(sample)
    if len(by_kind) < 2:
        return []
    return [_build_draft_acceptance_row(kind, of_kind) for kind, of_kind in sorted(by_kind.items())] + [
        _build_draft_acceptance_row(ALL, guessed)
    ]


def _build_draft_acceptance_row(category: str, samples: Sequence[Sample]) -> dict[str, Any]:
    looked_at, right = sum_draft_token_counts(sample.guessed for sample in samples) or ([], [])
    by_place = {
        f"token_{place}": f"{accepted / tried:.0%}" if tried else "–"
        for place, (tried, accepted) in enumerate(zip(looked_at, right, strict=True), start=1)
    }
    steps = looked_at[0] if looked_at else 0
    a_step = round(1 + sum(right) / steps, 2) if steps else None
    return {"kind": category, "answers": len(samples), "guesses": steps, **by_place, "tokens_a_step": a_step}
