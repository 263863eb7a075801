"""How often does a search wrongly prune a trial? `python bench/prune_null.py [--searches 400] [--trials 20]`.

All trials of a search are equally good: each answers each question right with the same probability, by chance alone.
Each is compared with the best trial so far while it runs, as hydra.sweeper.prune=true does it. Counted are the searches
that prune any trial, with an exact 95 % interval. The control: trials that are worse by 10 and 20 points are pruned.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from engines import head_line, markdown
from scipy import stats

from runner.core.sequential import Decision, Pairs, level_of


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("`")[0])
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--questions", type=int, nargs="+", default=[100, 400])
    options = parser.parse_args()
    print(head_line([*sys.argv], 1), end="\n\n")
    rows = []
    for questions in options.questions:
        for accuracy in (0.5, 0.9):
            drawn = np.random.default_rng(questions)
            pruned = sum(any(prunes(drawn, options.trials, questions, accuracy, 0.0)) for _ in range(options.searches))
            low, high = stats.binomtest(pruned, options.searches).proportion_ci()
            interval = f"{pruned / options.searches:.1%} [{low:.1%}, {high:.1%}]"
            power = [
                np.mean([prunes(drawn, 2, questions, accuracy, worse, options.trials)[0] for _ in range(200)])
                for worse in (0.1, 0.2)
            ]
            rows.append([f"{questions}", f"{accuracy:.0%}", interval, *(f"{it:.0%}" for it in power)])
    print(
        markdown(
            ["questions", "accuracy", "searches that prune wrongly", "pruned if 10 points worse", "20 points"], rows
        )
    )


def prunes(
    drawn: np.random.Generator, trials: int, questions: int, accuracy: float, worse: float, wanted: int | None = None
) -> list[bool]:
    """Return for each trial after the first whether it is pruned; they are worse than the first by so much."""
    best = drawn.random(questions) < accuracy
    found = []
    for _ in range(trials - 1):
        verdicts = drawn.random(questions) < accuracy - worse
        pairs = Pairs(level_of((wanted or trials) - 1), None)
        for mine, theirs in zip(verdicts.tolist(), best.tolist(), strict=True):
            pairs.add(mine, theirs)
            if pairs.decision is not Decision.open:
                break
        found.append(pairs.decision is Decision.worse)
        if not found[-1] and verdicts.mean() > best.mean():
            best = verdicts
    return found


if __name__ == "__main__":
    main()
