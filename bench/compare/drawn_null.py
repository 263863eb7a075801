"""Does the ± of a KL from drawn tokens hold? `python bench/compare/drawn_null.py [--draws 600] [--seed 0]`.

A reference keeps its most probable tokens and draws 16 of the others at each position. Nearly all of these are about as
probable in the compared model; a share of them is 8 nats less probable there and has most of the divergence. The
estimate is the product's own, from log-probabilities to the printed ±. The control is what was printed before: 1.96
standard errors, of any number of tokens. Shares that two thousand tokens seldom draw are not counted.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from simulation import Limits, Numbers, Rate, Table, begin

from runner.scorers.divergence import Divergence, estimate_divergence_from_draws
from runner_base import Likelihood
from runner_compare.statistics.likelihoods import compute_likelihood_metrics

DRAWN = 16
REST = 0.2  # probability of all tokens that were not kept
NEAR, FAR = 0.3, -8.0  # how far log-probabilities are apart: of most tokens, and of the rare ones
SHARES = (0.01, 0.003, 0.0015)  # of the probability of the rest
RARE = (0.0003,)  # not counted
SIZES = (40, 400, 1000, 2000, 4000)  # tokens
TEXTS = 20
SMALLEST = 1e-12


def drawn_text(generator: np.random.Generator, tokens: int, share: float) -> tuple[Divergence, float]:
    """Draw the tokens of one text; return the estimate and the true divergence in nats."""
    is_far = generator.random((tokens, DRAWN)) < share
    near = generator.normal(-(NEAR**2) / 2, NEAR, (tokens, DRAWN))  # E[exp] is 1
    log_r = np.where(is_far, FAR, near)
    kept_mass = 1 - REST
    # r is relative to both rests: the compared model's rest is smaller where tokens are far less probable
    factor = (1 - share) + share * math.exp(FAR)
    our_rest = REST * factor
    reference = np.full((tokens, 1), math.log(kept_mass))
    ours = np.full((tokens, 1), math.log(1 - our_rest))
    each = np.full((tokens, DRAWN), math.log(REST / 1000))  # a thousand equal tokens
    these = np.concatenate([ours, each + log_r], axis=1)
    estimate = estimate_divergence_from_draws(
        1, reference.ravel().tolist(), DRAWN, each.ravel().tolist(), these.tolist(),
        [math.log(SMALLEST)] * tokens, [True] * tokens,
    )  # fmt: skip
    inside = kept_mass * math.log(kept_mass / (1 - our_rest))
    rest = REST * ((1 - share) * NEAR**2 / 2 - share * FAR)
    return estimate, tokens * (inside + rest)


def misses(generator: np.random.Generator, draws: int, tokens: int, share: float) -> tuple[Rate | None, Rate]:
    """Return how often the ± misses the truth, None where it is not given, and how often 1.96
    standard errors do."""
    now, before = [], 0
    for _ in range(draws):
        sizes: Numbers = np.full(TEXTS, tokens // TEXTS)
        job, truth = [], 0.0
        for unit, size in enumerate(sizes.astype(int).tolist()):
            found, of_text = drawn_text(generator, size, share)
            truth += of_text
            job.append(
                Likelihood(
                    unit, -1.0, size, size, size, 1, kl_nats=found.kl_nats, truncation_nats=0.0,
                    top_1_agreed=1, kl_variance=found.kl_variance,
                )
            )  # fmt: skip
        known = compute_likelihood_metrics(job)
        off = abs(known["kl_nats_per_token"] - truth / tokens)
        error = known.get("kl_drawing_error_nats_per_token")
        if error is not None:
            now.append(off > error)
        before += off > 1.96 * math.sqrt(sum(it.kl_variance or 0.0 for it in job)) / tokens
    return (Rate(sum(now), len(now)) if now else None), Rate(before, draws)


def main() -> int:
    """Simulate and print; 1 if ± misses too often."""
    (draws, generator, started), limits = begin("drawn_null", __doc__, 600, "draws"), Limits()
    heads = "tokens", "rare share", "drawn of it", "± misses truth %", "1.96 errors, before %"
    table = Table(f"KL from drawn tokens: {draws:,} jobs a line", *heads)
    for share in (*SHARES, *RARE):
        for tokens in SIZES:
            now, before = misses(generator, draws, tokens, share)
            table.row(tokens, f"{share:.2%}", f"{tokens * DRAWN * share:.0f}", now or "no ±", before)
            if now is not None and share in SHARES:
                limits.missed.append(now)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
