"""How far a model is from a reference, token by token: by whole distributions, or by what the reference has kept.

Where that is its most probable tokens, the rest of each distribution counts as one token. That makes the divergence too
small, never too large, and by how much at most follows from what this model thinks of its least probable token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-7  # of a probability's sum in float32: less is left of no distribution


@dataclass(frozen=True)
class Divergence:
    """Sums over the tokens of one sample, in nats."""

    kl_nats: float  # KL(reference || this), at least
    truncation_nats: float  # what the tokens that are not kept can add to it, at most
    agreed: int  # tokens in whose place both have the same first choice

    def __add__(self, other: Divergence) -> Divergence:
        """Return what further tokens make of it."""
        truncation_nats = self.truncation_nats + other.truncation_nats
        return Divergence(self.kl_nats + other.kl_nats, truncation_nats, self.agreed + other.agreed)


def diverge(
    width: int,
    reference: Sequence[float],
    these: Sequence[Sequence[float]],
    least: Sequence[float],
    same_first: Sequence[bool],
) -> Divergence:
    """Return how far this model is from the reference over one sample.

    `reference` are the logarithms of its `width` most probable tokens, place after place, `these` what this model
    gives the same tokens, and `least` its least probable token in each place. Of p that are left of the reference and
    q of this model, the rest adds p·log(p/q) or more (log-sum inequality). It adds no more than if all of p stood
    where this model has its least: each token of the rest has at most p, and at most what the last kept one has.
    """
    import numpy as np  # a tenth of a second, for who compares only

    kept = np.asarray(reference, dtype=np.float64).reshape(-1, width)  # [T, K]
    ours = np.asarray(these, dtype=np.float64).reshape(kept.shape)
    lowest = np.asarray(least, dtype=np.float64)
    has = np.isfinite(kept)  # a token that cannot come adds nothing
    with np.errstate(invalid="ignore", divide="ignore"):  # in places that are not selected
        inside = np.where(has, np.exp(kept) * (kept - ours), 0.0).sum(axis=1)
        rest = np.maximum(1.0 - np.exp(kept).sum(axis=1), 0.0)
        our_rest = np.maximum(1.0 - np.exp(ours).sum(axis=1), ROUNDING)
        is_left = rest > ROUNDING
        left = np.where(is_left, rest, 1.0)
        tail = np.where(is_left, left * np.log(left / our_rest), 0.0)
        largest = np.minimum(np.exp(kept[:, -1]), left)  # of one token of the rest
        most = np.where(is_left, left * (np.log(largest) - lowest), 0.0)
        truncation = np.maximum(most - tail, 0.0) + np.where(is_left, 0.0, ROUNDING * -lowest)
    sums = (float(values.sum()) for values in (inside + tail, truncation))
    kl_nats, truncation_nats = (value if math.isfinite(value) else math.inf for value in sums)
    return Divergence(kl_nats, truncation_nats, sum(same_first))


def diverge_whole(reference: Any, these: Any) -> Divergence:
    """Return how far this model is from the reference in some places, by whole distributions.

    Both are tensors [n, V] of logarithms, as engines have them in float32. In float64 each is made to add up to 1, so
    that what is left of rounding is that of single numbers.
    """
    p, q = (one.double().log_softmax(dim=-1) for one in (reference, these))
    parts = (p.exp() * (p - q)).where(p.isfinite(), 0.0)  # a token that cannot come adds nothing
    agreed = reference.argmax(dim=-1) == these.argmax(dim=-1)
    return Divergence(float(parts.sum()), 0.0, int(agreed.sum()))
