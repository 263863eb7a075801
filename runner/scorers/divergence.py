"""The divergence of a model from a reference, token by token: over whole distributions, or over the kept tokens.

If the reference has kept only its most probable tokens, the rest of each distribution counts as one token. So the
divergence comes out too small, never too large. The probability of this model's least probable token bounds the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-7  # of a sum of probabilities in float32: a smaller rest is not distinguishable from none


@dataclass(frozen=True)
class Divergence:
    """Sums over the tokens of one sample, in nats."""

    kl_nats: float  # KL(reference || this), at least
    truncation_nats: float  # the most that the other tokens can add to it
    agreed: int  # positions in which both have the same first choice

    def __add__(self, other: Divergence) -> Divergence:
        """Return the sums over both."""
        truncation_nats = self.truncation_nats + other.truncation_nats
        return Divergence(self.kl_nats + other.kl_nats, truncation_nats, self.agreed + other.agreed)


def diverge(
    width: int,
    reference: Sequence[float],
    these: Sequence[Sequence[float]],
    least: Sequence[float],
    same_first: Sequence[bool],
) -> Divergence:
    """Return this model's divergence from the reference over one sample.

    `reference` are the log-probabilities of its `width` most probable tokens, position after position, `these` those of
    the same tokens under this model, and `least` that of this model's least probable token in each position. If the
    rest has the probability p in the reference and q in this model, it adds p·log(p/q) or more (log-sum inequality). It
    adds no more than if all of p were on this model's least probable token: each token of the rest has at most p, and
    at most the probability of the last kept token.
    """
    import numpy as np  # takes a tenth of a second, and only comparisons need it

    kept = np.asarray(reference, dtype=np.float64).reshape(-1, width)  # [T, K]
    ours = np.asarray(these, dtype=np.float64).reshape(kept.shape)
    lowest = np.asarray(least, dtype=np.float64)
    is_possible = np.isfinite(kept)  # a token with probability 0 adds nothing
    with np.errstate(invalid="ignore", divide="ignore"):  # in positions that are not selected
        inside = np.where(is_possible, np.exp(kept) * (kept - ours), 0.0).sum(axis=1)
        rest = np.maximum(1.0 - np.exp(kept).sum(axis=1), 0.0)
        our_rest = np.maximum(1.0 - np.exp(ours).sum(axis=1), ROUNDING)
        has_rest = rest > ROUNDING
        positive_rest = np.where(has_rest, rest, 1.0)
        tail = np.where(has_rest, positive_rest * np.log(positive_rest / our_rest), 0.0)
        largest = np.minimum(np.exp(kept[:, -1]), positive_rest)  # of one token of the rest
        largest_tail = np.where(has_rest, positive_rest * (np.log(largest) - lowest), 0.0)
        truncation = np.maximum(largest_tail - tail, 0.0) + np.where(has_rest, 0.0, ROUNDING * -lowest)
    sums = (float(values.sum()) for values in (inside + tail, truncation))
    kl_nats, truncation_nats = (value if math.isfinite(value) else math.inf for value in sums)
    return Divergence(kl_nats, truncation_nats, sum(same_first))


def diverge_whole(reference: Any, these: Any) -> Divergence:
    """Return this model's divergence from the reference in some positions, over whole distributions.

    Both are tensors [n, V] of log-probabilities in float32, as engines give them. They are normalized in float64, so
    that only the rounding of single numbers is left.
    """
    p, q = (one.double().log_softmax(dim=-1) for one in (reference, these))
    parts = (p.exp() * (p - q)).where(p.isfinite(), 0.0)  # a token with probability 0 adds nothing
    agreed = reference.argmax(dim=-1) == these.argmax(dim=-1)
    return Divergence(float(parts.sum()), 0.0, int(agreed.sum()))
