"""How many guessed tokens were right, by the kind of text: some texts are easier to guess than others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from runner_base import Sample

ALL = "all"
Counts = tuple[list[int], list[int]]  # by the place in a guess: looked at, and right


def summed_guesses(counts: Iterable[Counts | None]) -> Counts | None:
    """Return the counts of several answers together; None where nothing was guessed."""
    known = [of_answer for of_answer in counts if of_answer is not None]
    if not known:
        return None
    looked_at, right = (
        [sum(place) for place in zip(*side, strict=True)] for side in zip(*known, strict=True)
    )
    return looked_at, right


def kind_of_text(sample: Sample) -> str | None:
    """Return what kind of text a sample is, as far as its task says so."""
    return sample.tool_category or sample.recall_kind or sample.category or sample.cluster


def rows_by_kind(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return a row for each kind and one for all; none where nothing was guessed here, or all is of
    one kind."""
    guessed = [sample for sample in samples if sample.guessed and sample.reused_from is None]
    by_kind: dict[str, list[Sample]] = {}
    for sample in guessed:
        if (kind := kind_of_text(sample)) is not None:
            by_kind.setdefault(kind, []).append(sample)
    if len(by_kind) < 2:
        return []
    return [_row(kind, of_kind) for kind, of_kind in sorted(by_kind.items())] + [_row(ALL, guessed)]


def _row(kind: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return how often each place of a guess was right, and the tokens of a step."""
    looked_at, right = summed_guesses(sample.guessed for sample in samples) or ([], [])
    by_place = {
        f"token_{place}": f"{accepted / tried:.0%}" if tried else "–"
        for place, (tried, accepted) in enumerate(zip(looked_at, right, strict=True), start=1)
    }
    steps = looked_at[0] if looked_at else 0
    a_step = round(1 + sum(right) / steps, 2) if steps else None
    return {"kind": kind, "answers": len(samples), "guesses": steps, **by_place, "tokens_a_step": a_step}
