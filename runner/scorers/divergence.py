"""Computes the divergence per token between a model and its reference, exactly or from stored tokens.

A reference stores its most probable tokens, and some drawn at random from all others, by their
probability. So the divergence is estimated without bias, and the draws show its precision. A
sum over the other tokens would not do: the reference may have put their probability on any of
them. Without draws (earlier versions stored none) the rest of each distribution counts as one
token. Then the divergence comes out too small, never too large, and the probability of this
model's least probable token bounds the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-7  # of a sum of probabilities in float32: a smaller rest is not distinguishable from none
Values = Sequence[float]


@dataclass(frozen=True)
class Divergence:
    """Divergence of a model from its reference on one sample. Sums are in nats. Lists have one value
    per token.
    """

    kl_nats: float  # KL(reference || this): at least, or estimated without bias where tokens were drawn
    truncation_nats: float  # the most that the other tokens can add to it
    agreed: int  # positions in which both have the same first choice
    kl_variance: float = 0.0  # of kl_nats, by the draws
    least: Values = ()  # the divergence in each position, or a lower bound: the other tokens count as one
    most: Values = ()  # an upper bound; empty: `least` is exact
    estimated: Values = ()  # without bias in each position, where tokens were drawn; empty: `least` is the best known
    firsts: Sequence[tuple[int, int]] = ()  # the reference's and this model's first choice in each position

    def __add__(self, other: Divergence) -> Divergence:
        return Divergence(
            self.kl_nats + other.kl_nats,
            self.truncation_nats + other.truncation_nats,
            self.agreed + other.agreed,
            self.kl_variance + other.kl_variance,
            [*self.least, *other.least],
            [*self.most, *other.most],
            [*self.estimated, *other.estimated],
            [*self.firsts, *other.firsts],
        )


class _StoredTokens:
    """Probabilities [T, K] of the reference's top-k tokens, under the reference and under the model."""

    def __init__(self, width: int, reference: Sequence[float], model_logprobs: Any) -> None:
        import numpy as np  # takes a tenth of a second, and only comparisons need it

        self.reference = np.asarray(reference, dtype=np.float64).reshape(-1, width)
        logprobs = np.asarray(model_logprobs, dtype=np.float64).reshape(self.reference.shape)
        is_possible = np.isfinite(self.reference)  # a token with probability 0 adds nothing
        with np.errstate(invalid="ignore", divide="ignore"):  # in positions that are not selected
            self.inside = np.where(
                is_possible, np.exp(self.reference) * (self.reference - logprobs), 0.0
            ).sum(axis=1)
            rest = np.maximum(1.0 - np.exp(self.reference).sum(axis=1), 0.0)
            self.our_rest = np.maximum(1.0 - np.exp(logprobs).sum(axis=1), ROUNDING)
            self.has_rest = rest > ROUNDING
            self.rest = np.where(self.has_rest, rest, 1.0)
            # as one token
            self.tail = np.where(self.has_rest, self.rest * np.log(self.rest / self.our_rest), 0.0)

    def bound_divergence_outside_top_k(self, min_logprobs: Sequence[float]) -> Any:
        """Return, for each position, an upper bound of the divergence that tokens outside the top k
        contribute.
        """
        import numpy as np

        lowest = np.asarray(min_logprobs, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):  # in positions that are not selected
            # of one token of the rest
            largest = np.minimum(np.exp(self.reference[:, -1]), self.rest)
            largest_tail = np.where(self.has_rest, self.rest * (np.log(largest) - lowest), 0.0)
            return np.maximum(largest_tail - self.tail, 0.0) + np.where(
                self.has_rest, 0.0, ROUNDING * -lowest
            )


def compute_divergence_lower_bound(
    top_k: int,
    reference_logprobs: Sequence[float],
    model_logprobs: Sequence[Sequence[float]],
    min_logprobs: Sequence[float],
    is_same_top_token: Sequence[bool],
) -> Divergence:
    """Return a lower bound of the divergence from a reference whose top-k log-probabilities are stored.

    `reference_logprobs` contains the reference's top-k tokens, position after position.
    `model_logprobs` contains those of the same tokens under this model. `min_logprobs` is that of this
    model's least probable token at each position. If the rest has the probability p in the reference
    and q in this model, it adds p·log(p/q) or more (log-sum inequality). It adds no more than if all of
    p were on this model's least probable token: each token of the rest has at most p, and at most the
    probability of the last stored token.
    """
    kept = _StoredTokens(top_k, reference_logprobs, model_logprobs)
    kl, truncation = kept.inside + kept.tail, kept.bound_divergence_outside_top_k(min_logprobs)
    return Divergence(
        _finite_sum(kl),
        _finite_sum(truncation),
        sum(is_same_top_token),
        least=kl.tolist(),
        most=(kl + truncation).tolist(),
    )


def estimate_divergence_from_draws(
    top_k: int,
    reference_logprobs: Sequence[float],
    num_sampled: int,
    sampled_reference_logprobs: Sequence[float],
    model_logprobs: Sequence[Sequence[float]],
    min_logprobs: Sequence[float],
    is_same_top_token: Sequence[bool],
) -> Divergence:
    """Return an unbiased estimate of the divergence, from tokens that the reference has sampled.

    The reference has `num_sampled` randomly sampled tokens per position. `model_logprobs` are the
    log-probabilities of the most probable and then of the sampled tokens under this model. With
    the rests p and q of both, and r the ratio of a token's probabilities within the rests (this
    model's over the reference's), the rest adds p·log(p/q) + p·E[r − 1 − log r], with the mean
    over tokens that the reference draws: E[r] is 1.
    """
    import numpy as np

    logprobs = np.asarray(model_logprobs, dtype=np.float64)
    kept = _StoredTokens(top_k, reference_logprobs, logprobs[:, :top_k])
    drawn_logprobs = np.asarray(sampled_reference_logprobs, dtype=np.float64).reshape(-1, num_sampled)
    with np.errstate(invalid="ignore", over="ignore"):
        log_r = (logprobs[:, top_k:] - np.log(kept.our_rest)[:, None]) - (
            drawn_logprobs - np.log(kept.rest)[:, None]
        )
        each = np.where(kept.has_rest[:, None], np.exp(log_r) - 1.0 - log_r, 0.0)
        rest = np.where(kept.has_rest, kept.rest, 0.0)
        variance = (
            rest**2 * each.var(axis=1, ddof=1) / num_sampled
            if num_sampled > 1
            else np.full(len(rest), np.inf)
        )
    at_least = kept.inside + kept.tail
    kl, at_most = (
        at_least + rest * each.mean(axis=1),
        at_least + kept.bound_divergence_outside_top_k(min_logprobs),
    )
    bounds = at_least.tolist(), at_most.tolist()
    return Divergence(
        _finite_sum(kl), 0.0, sum(is_same_top_token), _finite_sum(variance), *bounds, estimated=kl.tolist()
    )


def _finite_sum(values: Any) -> float:
    total = float(values.sum())
    return total if math.isfinite(total) else math.inf


def compute_exact_divergence(reference_logprobs: Any, model_logprobs: Any) -> Divergence:
    """Return the exact divergence between the full next-token distributions of reference and model.

    Both are tensors [n, V] of log-probabilities in float32, as engines return them. They are
    normalized in float64, so that only the rounding of single numbers is left.
    """
    p, q = (logits.double().log_softmax(dim=-1) for logits in (reference_logprobs, model_logprobs))
    parts = (p.exp() * (p - q)).where(p.isfinite(), 0.0)  # a token with probability 0 adds nothing
    firsts = list(
        zip(reference_logprobs.argmax(dim=-1).tolist(), model_logprobs.argmax(dim=-1).tolist(), strict=True)
    )
    agreed = sum(reference_first == first for reference_first, first in firsts)
    return Divergence(float(parts.sum()), 0.0, agreed, least=parts.sum(dim=-1).tolist(), firsts=firsts)
