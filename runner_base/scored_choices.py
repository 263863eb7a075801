"""Which choice of a question a model takes, by the log-likelihoods of all choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from runner_base.result import Likelihood

# the divisor of a choice's log-likelihood before the largest wins; lm-evaluation-harness counts
# characters
NORMS: dict[str, Callable[[Likelihood], float]] = {
    "acc": lambda _: 1.0,
    "acc_norm": lambda text: float(text.characters),
    "acc_bytes": lambda text: float(text.bytes),
    "acc_tokens": lambda text: float(text.tokens),
}


def select_choice(choices: Sequence[Likelihood], metric: str) -> int:
    """Return the index of the most probable choice by a metric of NORMS. Of equal ones, the first."""
    length = NORMS[metric]
    return max(range(len(choices)), key=lambda index: choices[index].nats / length(choices[index]))


def compute_gold_probability(choices: Sequence[Likelihood]) -> float:
    """Return the probability of the right choices, if one of all choices must be chosen."""
    largest = max(choice.nats for choice in choices)
    weights = [math.exp(choice.nats - largest) for choice in choices]
    right = (weight for weight, choice in zip(weights, choices, strict=True) if not choice.is_other)
    return math.fsum(right) / math.fsum(weights)
