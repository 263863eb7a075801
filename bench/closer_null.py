"""Does runner-advise call a file closer that is not? `python bench/closer_null.py [--draws 300] [--seed 0]`.

`closer to REFERENCE` is said of two candidates whose recorded intervals of KL do not overlap. Here five files have the
same true KL, so each such claim is wrong; and then one is truly farther by a half, which is to be found. Texts, lengths
and parts are those of files_null.py. A list is wrong if it holds any wrong claim. The exit code is 1 if more than 5 %
of the lists are, beyond noise.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations, product

import numpy as np
from compare_null import Rate
from files_null import LEAST, Line, draw

from runner.core.result import Likelihood
from runner.core.stats import ALPHA
from runner.scorers.likelihoods import figures

KINDS = ("even", "peaked", "mixed", "families")
FARTHER = 1.5
ENDS = ("kl_nats_per_token_low", "kl_nats_per_token_high")


def intervals(generator: np.random.Generator, line: Line) -> list[tuple[float, float]]:
    """Return the interval of the KL that a likelihood job records, for each file."""
    kls, tokens, families = draw(generator, line)
    by_unit = dict(enumerate(families))
    found = []
    for row in kls:
        of_texts = [
            Likelihood(at, -0.1 * count, int(count), int(count), int(count), int(count), kl_nats=float(kl),
                       truncation_nats=0.0, top_1_agreed=0)
            for at, (count, kl) in enumerate(zip(tokens, row, strict=True))
        ]  # fmt: skip
        job = figures(of_texts, by_unit)
        found.append((job[ENDS[0]], job[ENDS[1]]))
    return found


def are_apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two intervals do not overlap."""
    return one[1] < other[0] or other[1] < one[0]


def main() -> int:
    """Simulate and print; 1 if wrong claims are too frequent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator, failed = np.random.default_rng(options.seed), 0
    print(f"python bench/closer_null.py --draws {options.draws} --seed {options.seed}\n")
    print(f"{'own part':8} {'texts':>5}  {'of 5 equal files, a wrong claim':>32}  {'half as far again, found':>24}")
    for kind, texts in product(KINDS, (60, 200)):
        equal, farther = (Line("", (LEAST,) * 4 + (last,), texts, kind) for last in (LEAST, FARTHER * LEAST))
        tables = [intervals(generator, equal) for _ in range(options.draws)]
        wrong = Rate(sum(any(are_apart(*pair) for pair in combinations(ends, 2)) for ends in tables), options.draws)
        seen = [intervals(generator, farther) for _ in range(options.draws)]
        found = Rate(sum(are_apart(ends[0], ends[-1]) for ends in seen), options.draws)
        print(f"{kind:8} {texts:5}  {wrong!s:>32}  {found!s:>24}", flush=True)
        failed += wrong.low > ALPHA
    print(f"\nlines that are wrong: {failed} of {2 * len(KINDS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
