"""Do the intervals of a table hold together? `python bench/compare/simultaneous_null.py`.

Tables of 3, 6 and 12 rows with a margin of 2 points: equal rows, rows of which some are clearly worse (so that Holm's
correction leaves more of the error to the others), rows at the margin, and a mixture. Shown is how often the intervals
that the table prints contain all true differences, and how often one of them says something else than the verdict
beside it. The control: the intervals of a comparison alone.
"""

from __future__ import annotations

import sys
from functools import cache

from simulation import Limits, Rate, Table, begin

from runner_compare.statistics import (
    Decision,
    Finding,
    MarginVerdict,
    McNemarTest,
    decide_comparisons_with_holm,
)

N, MARGIN, NOISE = 500, 0.02, 0.05  # questions, and the share that each side alone solves by chance
PATTERNS = {
    "equal": (0.0,),
    "one equal, others clearly worse": (0.0, *(0.12,) * 11),
    "half clearly worse": (0.0, 0.12),
    "at the margin": (MARGIN,),
    "none to clear": (0.0, 0.02, 0.04, 0.08),
}
NOT_WORSE = {MarginVerdict.better, MarginVerdict.as_good, MarginVerdict.worse_but_within}


def contradicts(it: Decision) -> bool:
    """Whether the interval says something else than the finding or the verdict."""
    low, high = it.simultaneous_interval
    says_differ, says_within, says_more = low > 0 or high < 0, low > -MARGIN, high < -MARGIN
    return (
        says_differ != (it.finding is not Finding.open)
        or says_within != (it.verdict in NOT_WORSE)
        or says_more != (it.verdict is MarginVerdict.worse_by_more)
    )


@cache
def test_of(wins: int, losses: int) -> McNemarTest:
    """Return the test of these pairs, once: the same ones are drawn again and again."""
    return McNemarTest(wins, losses, N)


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (tables, generator, started), limits = (begin("simultaneous_null", __doc__, 2000, "tables"), Limits())
    table = Table(
        f"{tables:,} tables a line",
        "rows",
        "true differences               ",
        "miss any truth %",
        "alone",
        "contradict",
    )
    wrong = 0
    for rows in (3, 6, 12):
        for name, losses in PATTERNS.items():
            truths = [losses[number % len(losses)] for number in range(rows)]
            missed = alone = contradicting = 0
            for _ in range(tables):
                counts = [
                    generator.multinomial(N, [NOISE, NOISE + loss, 1 - 2 * NOISE - loss]) for loss in truths
                ]
                decisions = decide_comparisons_with_holm(
                    [test_of(int(won), int(lost)) for won, lost, _ in counts], {"accuracy": MARGIN}
                )
                pairs = list(zip(decisions, truths, strict=True))
                missed += any(not it.simultaneous_low <= -loss <= it.simultaneous_high for it, loss in pairs)
                alone += any(not it.low <= -loss <= it.high for it, loss in pairs)
                contradicting += any(map(contradicts, decisions))
            limits.missed.append(Rate(missed, tables))
            table.row(rows, name, limits.missed[-1], Rate(alone, tables).plain, contradicting)
            wrong += contradicting
    return max(limits.conclude(started), int(wrong > 0))


if __name__ == "__main__":
    sys.exit(main())
