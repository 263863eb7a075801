"""Does runner-advise call a file closer that is not? `python bench/compare/closer_null.py [--draws 300] [--seed 0]`.

`closer to REFERENCE` is said of two candidates whose recorded intervals of KL do not overlap. Here five files have the
same true KL, so each such claim is wrong; and then one is truly farther by a half, which is to be found. Texts, lengths
and parts are those of files_null.py. A list is wrong if it holds any wrong claim.
"""

from __future__ import annotations

import math
import sys
from itertools import combinations, product

import numpy as np
from files_null import LEAST, Line, draw
from simulation import Limits, Rate, Table, begin

from runner_base import Likelihood
from runner_compare.statistics.likelihoods import compute_likelihood_metrics

KINDS = ("even", "peaked", "mixed", "families")
FARTHER = 1.5
ENDS = ("kl_nats_per_token_low", "kl_nats_per_token_high")


def intervals(generator: np.random.Generator, line: Line) -> list[tuple[float, float]]:
    """Return the interval of the KL that a likelihood job records, for each file; without one,
    nothing is claimed."""
    kls, tokens, families = draw(generator, line)
    by_unit = dict(enumerate(families))
    found = []
    for row in kls:
        of_texts = [
            Likelihood(at, -0.1 * count, int(count), int(count), int(count), int(count), kl_nats=float(kl),
                       truncation_nats=0.0, top_1_agreed=0)
            for at, (count, kl) in enumerate(zip(tokens, row, strict=True))
        ]  # fmt: skip
        job = compute_likelihood_metrics(of_texts, by_unit)
        found.append((job.get(ENDS[0], -math.inf), job.get(ENDS[1], math.inf)))
    return found


def are_apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two intervals do not overlap."""
    return one[1] < other[0] or other[1] < one[0]


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (draws, generator, started), limits = begin("closer_null", __doc__, 300, "draws"), Limits()
    heads = "own part", "texts", "a wrong claim %", "half as far again, found %"
    table = Table("of five equal files, and of four and one that is farther", *heads)
    for kind, texts in product(KINDS, (60, 200)):
        equal, farther = (Line("", (LEAST,) * 4 + (last,), texts, kind) for last in (LEAST, FARTHER * LEAST))
        tables = [intervals(generator, equal) for _ in range(draws)]
        limits.false.append(
            Rate(sum(any(are_apart(*pair) for pair in combinations(it, 2)) for it in tables), draws)
        )
        seen = [intervals(generator, farther) for _ in range(draws)]
        table.row(
            kind, texts, limits.false[-1], Rate(sum(are_apart(ends[0], ends[-1]) for ends in seen), draws)
        )
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
