"""How often does a search prune wrongly? `python bench/compare/prune_null.py [--searches 400] [--trials 20]`.

All trials of a search are equally good: each answers each question right with the same probability, by chance alone.
Each is compared with the best trial so far while it runs, as hydra.sweeper.prune=true does it. Counted are the searches
that prune any trial. The control: trials that are worse by 10 and 20 points are pruned.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from simulation import Rate, Table, options_of

from runner_compare.statistics.sequential import SequentialPairs, Side, comparison_level


def main() -> int:
    """Simulate and print."""
    parser = options_of(__doc__, 400, "searches")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--questions", type=int, nargs="+", default=[100, 400])
    options = parser.parse_args()
    print(f"python bench/compare/prune_null.py --searches {options.searches}", flush=True)
    started = time.perf_counter()
    heads = ("questions", "accuracy", "searches that prune wrongly %", "10 points worse, pruned", "20 points")
    table = Table(f"{options.searches:,} searches of {options.trials} trials", *heads)
    for questions in options.questions:
        for accuracy in (0.5, 0.9):
            drawn = np.random.default_rng(options.seed + questions)
            pruned = sum(
                any(prunes(drawn, options.trials, questions, accuracy, 0.0)) for _ in range(options.searches)
            )
            powers = [
                Rate(
                    sum(prunes(drawn, 2, questions, accuracy, worse, options.trials)[0] for _ in range(200)),
                    200,
                )
                for worse in (0.1, 0.2)
            ]
            table.row(
                questions, f"{accuracy:.0%}", Rate(pruned, options.searches), *(it.plain for it in powers)
            )
    print(f"{time.perf_counter() - started:.0f} s")
    return 0


def prunes(
    drawn: np.random.Generator,
    trials: int,
    questions: int,
    accuracy: float,
    worse: float,
    wanted: int | None = None,
) -> list[bool]:
    """Return for each trial after the first whether it is pruned; they are worse than the first by
    so much."""
    best = drawn.random(questions) < accuracy
    found = []
    for _ in range(trials - 1):
        verdicts = drawn.random(questions) < accuracy - worse
        pairs = SequentialPairs(comparison_level((wanted or trials) - 1), None)
        for mine, theirs in zip(verdicts.tolist(), best.tolist(), strict=True):
            pairs.add_pair(mine, theirs)
            if pairs.decision is not Side.open:
                break
        found.append(pairs.decision is Side.worse)
        if not found[-1] and verdicts.mean() > best.mean():
            best = verdicts
    return found


if __name__ == "__main__":
    sys.exit(main())
