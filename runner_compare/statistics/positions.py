"""The loss by position: over the tokens that have 1, 2–3, 4–7 … tokens before them, with intervals
over texts.

Tokens of one text are not independent, whichever window they are in: the sample is the text, in
each bin. A bin of few texts has a wide interval, one of a single text none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner_base import Likelihood
from runner_compare.statistics.loss_cells import cells_in, curves_over, loss_and_kl

CELL = "position_"


@dataclass
class BinSums:
    """The sums of one text over the tokens of one bin."""

    tokens: float = 0.0
    nats: float = 0.0
    kl: float | None = None

    def add(self, tokens: float, nats: float, kl: float | None) -> None:
        """Add those of a window."""
        self.tokens += tokens
        self.nats += nats
        if kl is not None:
            self.kl = (self.kl or 0.0) + kl


def position_figures(
    parts: Sequence[Likelihood], family_by_unit: Mapping[int, str | None]
) -> dict[str, float]:
    """Return loss and KL of each bin; empty where windows are short, or an earlier version has kept
    no sums."""
    if not parts or any(part.by_position is None for part in parts):
        return {}
    bins: dict[int, dict[object, BinSums]] = {}
    has_families = all(family_by_unit.get(part.unit) is not None for part in parts)
    for part in parts:
        sample = family_by_unit[part.unit] if has_families else part.unit
        for number, tokens, nats, *kl in part.by_position or []:
            of_text = bins.setdefault(int(number), {}).setdefault(sample, BinSums())
            of_text.add(tokens, nats, kl[0] if kl else None)
    found: dict[str, float] = {}
    for number in sorted(bins):
        found |= _of_bin(f"/{CELL}{2**number}", [*bins[number].values()])
    return found


def _of_bin(cell: str, texts: Sequence[BinSums]) -> dict[str, float]:
    tokens = [text.tokens for text in texts]
    figures = loss_and_kl(cell, tokens, [text.nats for text in texts], [text.kl for text in texts])
    return figures | {f"scored_tokens{cell}": sum(tokens)}


def positions_of(figures: Mapping[str, float]) -> list[int]:
    """Return the first position of each bin that a job has figures of."""
    return cells_in(figures, CELL)


def position_series(figures: Mapping[str, float]) -> dict[str, list[tuple[int, float]]]:
    """Return the curves over positions, a point at the first position of each bin."""
    return curves_over(figures, CELL, "position")
