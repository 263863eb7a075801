"""Up to how much context a model predicts the same tokens better: each context against the next
shorter one, by text.

A fixed sequence of tests, from the shortest context on: each at 5 %, and the first one that finds
no gain ends it. So at most 5 % of the sentences "more context helps up to N tokens" claim too much,
however many contexts there are: before the first step without a true gain nothing can be claimed
wrongly, and that step is tested once, at 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from runner_base import Likelihood
from runner_compare.metrics.likelihoods import GAIN, GAIN_P, HELPS_UP_TO
from runner_compare.statistics.likelihoods import by_family, units
from runner_compare.statistics.loss_cells import cells_in, curves_over, loss_and_kl
from runner_compare.statistics.methods.sign_flips import SignFlips
from runner_compare.statistics.ratios import MIN_TEXTS
from runner_compare.statistics.stats import ALPHA

CELL = "context_"


@dataclass(frozen=True)
class Step:
    """From one context to the next longer one: by how much the loss falls, in nats a token."""

    shorter: int
    longer: int
    gain: float
    low: float
    high: float
    p: float

    @property
    def helps(self) -> bool:
        """Whether the longer context is shown to be better."""
        return self.p < ALPHA and self.gain > 0

    @property
    def hurts(self) -> bool:
        """Whether the longer context is shown to be worse."""
        return self.p < ALPHA and self.gain < 0


def context_figures(
    parts: Sequence[Likelihood], family_by_unit: Mapping[int, str | None]
) -> dict[str, float]:
    """Return loss and KL after each context and the gain over the next shorter one; empty without
    contexts."""
    lengths = sorted({part.context for part in parts if part.context is not None})
    found: dict[str, float] = {}
    shorter: list[Likelihood] = []
    for length in lengths:
        texts = units([part for part in parts if part.context == length])
        texts = by_family(texts, [family_by_unit.get(text.unit) for text in texts])
        cell = f"/{CELL}{length}"
        tokens = [float(text.tokens) for text in texts]
        found |= loss_and_kl(cell, tokens, [text.nats for text in texts], [text.kl_nats for text in texts])
        if shorter and len(texts) >= MIN_TEXTS:
            effect = gain_over(texts, shorter).effect
            ends = {
                f"{GAIN}{cell}": effect.value,
                f"{GAIN}_low{cell}": effect.low,
                f"{GAIN}_high{cell}": effect.high,
            }
            found |= ends | {f"{GAIN_P}{cell}": effect.p}
        shorter = texts
    if steps := steps_of(found):
        found[HELPS_UP_TO] = float(next((step.longer for step in reversed(helping(steps))), steps[0].shorter))
    return found


def gain_over(texts: Sequence[Likelihood], others: Sequence[Likelihood]) -> SignFlips:
    """Return the test of the log-likelihoods of texts against those of the same texts, in the same
    order."""
    differences = [text.nats - other.nats for text, other in zip(texts, others, strict=True)]
    return SignFlips(differences, [float(text.tokens) for text in texts], "token")


def contexts_of(figures: Mapping[str, float]) -> list[int]:
    """Return the contexts that a job has figures of, shortest first."""
    return cells_in(figures, CELL)


def steps_of(figures: Mapping[str, float]) -> list[Step]:
    """Return the steps from context to context that were tested."""
    lengths = contexts_of(figures)
    steps: list[Step] = []
    for shorter, longer in pairwise(lengths):
        cell = f"/{CELL}{longer}"
        if f"{GAIN}{cell}" in figures:
            gain, low, high, p = (
                figures[f"{key}{cell}"] for key in (GAIN, f"{GAIN}_low", f"{GAIN}_high", GAIN_P)
            )
            steps.append(Step(shorter, longer, gain, low, high, p))
    return steps


def helping(steps: Sequence[Step]) -> list[Step]:
    """Return the steps that help, before the first one that is not shown to."""
    first = next((number for number, step in enumerate(steps) if not step.helps), len(steps))
    return [*steps[:first]]


def context_series(figures: Mapping[str, float]) -> dict[str, list[tuple[int, float]]]:
    return curves_over(figures, CELL, "context")
