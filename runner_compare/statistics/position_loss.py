"""Computes the loss by token position, in bins that double in size, with intervals over texts.

Tokens of one text are not independent, whichever window they are in: in each bin, the
sample is the text. A bin of few texts has a wide interval, one of a single text none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner_base import Likelihood
from runner_compare.statistics.loss_cells import (
    build_loss_curves,
    compute_loss_and_kl_metrics,
    list_measured_positions,
)

CELL = "position_"


@dataclass
class BinSums:
    """Sums over the tokens of one text in one position bin."""

    tokens: float = 0.0
    nats: float = 0.0
    kl: float | None = None

    def add_window_sums(self, tokens: float, nats: float, kl: float | None) -> None:
        self.tokens += tokens
        self.nats += nats
        if kl is not None:
            self.kl = (self.kl or 0.0) + kl


def compute_loss_metrics_by_position(
    likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None]
) -> dict[str, float]:
    """Return the loss and KL divergence of each position bin as metrics.

    Returns {} if windows are short, or if an earlier version did not store sums.
    """
    if not likelihoods or any(part.by_position is None for part in likelihoods):
        return {}
    bins: dict[int, dict[object, BinSums]] = {}
    has_families = all(cluster_by_unit.get(part.unit) is not None for part in likelihoods)
    for part in likelihoods:
        sample = cluster_by_unit[part.unit] if has_families else part.unit
        for number, tokens, nats, *kl in part.by_position or []:
            of_text = bins.setdefault(int(number), {}).setdefault(sample, BinSums())
            of_text.add_window_sums(tokens, nats, kl[0] if kl else None)
    found: dict[str, float] = {}
    for number in sorted(bins):
        found |= _compute_position_bin_metrics(f"/{CELL}{2**number}", [*bins[number].values()])
    return found


def _compute_position_bin_metrics(metric_suffix: str, texts: Sequence[BinSums]) -> dict[str, float]:
    tokens = [text.tokens for text in texts]
    figures = compute_loss_and_kl_metrics(
        metric_suffix, tokens, [text.nats for text in texts], [text.kl for text in texts]
    )
    return figures | {f"scored_tokens{metric_suffix}": sum(tokens)}


def list_bin_positions(metrics: Mapping[str, float]) -> list[int]:
    return list_measured_positions(metrics, CELL)


def position_curves(metrics: Mapping[str, float]) -> dict[str, list[tuple[int, float]]]:
    return build_loss_curves(metrics, CELL, "position")
