"""Tests whether a model predicts tokens better with a longer context.

Each context length is tested against the next shorter one, by text, from the shortest on,
at 5 %. The first test that finds no gain ends the sequence. So at most 5 % of the
statements "more context helps up to N tokens" claim too much, for any number of contexts:
nothing can be claimed wrongly before the first step without a true gain, and that step is
tested once, at 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from runner_base import Likelihood
from runner_compare.metrics.likelihoods import GAIN, GAIN_P, HELPS_UP_TO
from runner_compare.statistics.likelihoods import sum_likelihoods_by_cluster, sum_likelihoods_by_document
from runner_compare.statistics.loss_cells import (
    build_loss_curves,
    compute_loss_and_kl_metrics,
    list_measured_positions,
)
from runner_compare.statistics.methods.sign_flips import SignFlipTest
from runner_compare.statistics.ratios import MIN_TEXTS
from runner_compare.statistics.stats import ALPHA

CELL = "context_"


@dataclass(frozen=True)
class ContextStep:
    """Reduction of the loss, in nats per token, from one context length to the next longer one."""

    shorter: int
    longer: int
    gain: float
    low: float
    high: float
    p: float

    @property
    def helps(self) -> bool:
        return self.p < ALPHA and self.gain > 0

    @property
    def hurts(self) -> bool:
        return self.p < ALPHA and self.gain < 0


def compute_loss_metrics_by_context_length(
    likelihoods: Sequence[Likelihood], cluster_by_unit: Mapping[int, str | None]
) -> dict[str, float]:
    """Compute loss and KL divergence per context length, and the gain over the next shorter length.

    Returns {} without contexts.
    """
    lengths = sorted({part.context for part in likelihoods if part.context is not None})
    found: dict[str, float] = {}
    shorter: list[Likelihood] = []
    for length in lengths:
        texts = sum_likelihoods_by_document([part for part in likelihoods if part.context == length])
        texts = sum_likelihoods_by_cluster(texts, [cluster_by_unit.get(text.unit) for text in texts])
        cell = f"/{CELL}{length}"
        tokens = [float(text.tokens) for text in texts]
        found |= compute_loss_and_kl_metrics(
            cell, tokens, [text.nats for text in texts], [text.kl_nats for text in texts]
        )
        if shorter and len(texts) >= MIN_TEXTS:
            effect = create_log_likelihood_difference_test(texts, shorter).effect
            ends = {
                f"{GAIN}{cell}": effect.value,
                f"{GAIN}_low{cell}": effect.low,
                f"{GAIN}_high{cell}": effect.high,
            }
            found |= ends | {f"{GAIN_P}{cell}": effect.p}
        shorter = texts
    if steps := list_context_length_gains(found):
        found[HELPS_UP_TO] = float(
            next((step.longer for step in reversed(select_helpful_context_steps(steps))), steps[0].shorter)
        )
    return found


def create_log_likelihood_difference_test(
    texts: Sequence[Likelihood], baseline_texts: Sequence[Likelihood]
) -> SignFlipTest:
    """Create the test of log-likelihood differences between two runs.

    Both runs have the same documents in the same order.
    """
    differences = [text.nats - other.nats for text, other in zip(texts, baseline_texts, strict=True)]
    return SignFlipTest(differences, [float(text.tokens) for text in texts], "token")


def list_context_lengths(metrics: Mapping[str, float]) -> list[int]:
    return list_measured_positions(metrics, CELL)


def list_context_length_gains(metrics: Mapping[str, float]) -> list[ContextStep]:
    """Return the loss reduction of each tested step from one context length to the next longer one."""
    lengths = list_context_lengths(metrics)
    steps: list[ContextStep] = []
    for shorter, longer in pairwise(lengths):
        cell = f"/{CELL}{longer}"
        if f"{GAIN}{cell}" in metrics:
            gain, low, high, p = (
                metrics[f"{key}{cell}"] for key in (GAIN, f"{GAIN}_low", f"{GAIN}_high", GAIN_P)
            )
            steps.append(ContextStep(shorter, longer, gain, low, high, p))
    return steps


def select_helpful_context_steps(steps: Sequence[ContextStep]) -> list[ContextStep]:
    """Return the steps to longer contexts that precede the first step without a significant gain."""
    first = next((number for number, step in enumerate(steps) if not step.helps), len(steps))
    return [*steps[:first]]


def context_curves(metrics: Mapping[str, float]) -> dict[str, list[tuple[int, float]]]:
    return build_loss_curves(metrics, CELL, "context")
