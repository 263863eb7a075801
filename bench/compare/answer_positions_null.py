"""Does *from generated token N on, KL is larger than at the start* claim too much?
`python bench/compare/answer_positions_null.py [--draws 400]`.

Each answer has a KL level of its own and tokens whose KL depend on each other, with a heavy tail. Answers have very
different lengths, so that few reach the last bins. First the true KL is constant over positions: how often is any
growth found in a table of candidates, and how often if answers with more KL are longer? Then the KL of one candidate is
multiplied from a known position on: how often is that position found, and how often an earlier one?

Controls on the same draws: each token as a sample of its own, and the mean KL of a bin against that of the start over
all answers, where answers that do not reach the bin count at the start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from simulation import Limits, Numbers, Rate, Table, begin

from runner_base import Likelihood
from runner_base.generated_positions import split_by_generated_position
from runner_compare.statistics import ALPHA, decide_comparisons_with_holm
from runner_compare.statistics.answer_positions import (
    START_TOKENS,
    create_kl_growth_tests,
    find_kl_growth_start,
)
from runner_compare.statistics.stats import student_p_value

MAX_TOKENS = 4096
MEDIAN_TOKENS, LENGTH_SIGMA = 900, 0.9  # of answers, lognormal
MEAN_KL = 0.05
LEVEL_SIGMA = 0.6  # of the answers' levels, lognormal
TOKEN_SIGMA = 1.8  # of the tokens, lognormal: a few of 100 have most of the KL
MEMORY = 0.9  # correlation of a token's logarithm with that of the token before it
KINDS = ("identical", "independent tokens", "dependent tokens", "longer with more KL")
CANDIDATES = (1, 4)
LARGE = 4.0  # a factor that 200 answers have to show
PLANTED = ((256, 2.0), (1024, 2.0), (256, LARGE), (1024, LARGE))  # first position, factor


def draw_lengths(generator: np.random.Generator, answers: int, levels: Numbers, kind: str) -> Numbers:
    """Return the tokens of answers, which rise with their KL level in one kind."""
    shape = generator.standard_normal(answers)
    if kind == "longer with more KL":
        shape = 0.6 * shape + 0.8 * np.log(levels) / LEVEL_SIGMA
    drawn: Numbers = np.clip(MEDIAN_TOKENS * np.exp(LENGTH_SIGMA * shape), 8, MAX_TOKENS).round()
    return drawn


def draw_tokens(generator: np.random.Generator, tokens: int, kind: str) -> Numbers:
    """Return the KL of an answer's tokens, with mean 1."""
    if kind == "identical":
        return np.zeros(tokens)
    noise = generator.standard_normal(tokens)
    if kind != "independent tokens":
        from scipy.signal import lfilter

        noise[1:] *= (1 - MEMORY**2) ** 0.5
        noise = lfilter([1.0], [1.0, -MEMORY], noise)
    drawn: Numbers = np.exp(TOKEN_SIGMA * noise - TOKEN_SIGMA**2 / 2)
    return drawn


def draw_candidate(
    generator: np.random.Generator, answers: int, kind: str, planted: tuple[int, float] | None = None
) -> list[Numbers]:
    """Return the KL of each token of each answer."""
    levels = np.exp(LEVEL_SIGMA * generator.standard_normal(answers))
    lengths = draw_lengths(generator, answers, levels, kind)
    drawn = []
    for level, length in zip(levels, lengths.astype(int), strict=True):
        kl = MEAN_KL * level * draw_tokens(generator, length, kind)
        if planted is not None:
            kl[planted[0] :] *= planted[1]
        drawn.append(kl)
    return drawn


def to_likelihoods(candidate: Sequence[Numbers]) -> list[Likelihood]:
    """Return answers as a job stores them."""
    parts = []
    for unit, kl in enumerate(candidate):
        ranges = split_by_generated_position(len(kl))
        sums = [[first, end - first, 0.0, float(kl[first:end].sum()), 0.0] for first, end in ranges]
        parts.append(Likelihood(unit, 0.0, len(kl), 1, 1, 0, by_answer_position=sums))
    return parts


def find_starts(candidates: Sequence[Sequence[Numbers]]) -> list[int | None]:
    """Return from which position on each candidate of a table is said to have a larger KL."""
    tests = {
        (number, first): test
        for number, candidate in enumerate(candidates)
        for first, test in create_kl_growth_tests(to_likelihoods(candidate), {}).items()
    }
    decisions = dict(zip(tests, decide_comparisons_with_holm(tests.values()), strict=True))
    return [
        find_kl_growth_start({first: one for (of, first), one in decisions.items() if of == number})
        for number in range(len(candidates))
    ]


def claims_by_tokens(candidate: Sequence[Numbers]) -> bool:
    """Whether any bin has a larger KL than the start, with tokens as samples."""
    start = np.concatenate([kl[:START_TOKENS] for kl in candidate])
    return any(
        _is_larger(np.concatenate([kl[first:end] for kl in candidate if len(kl) > first]), start)
        for first, end in split_by_generated_position(MAX_TOKENS)
        if first >= START_TOKENS and any(len(kl) > first for kl in candidate)
    )


def claims_unpaired(candidate: Sequence[Numbers]) -> bool:
    """Whether any bin has a larger mean KL over the answers that reach it than the start over all answers."""
    start = np.array([kl[:START_TOKENS].mean() for kl in candidate])
    for first, end in split_by_generated_position(MAX_TOKENS):
        reached = [kl[first:end].mean() for kl in candidate if len(kl) > first]
        if first >= START_TOKENS and len(reached) > 2 and _is_larger(np.array(reached), start):
            return True
    return False


def _is_larger(values: Numbers, others: Numbers) -> bool:
    error = float((values.var(ddof=1) / len(values) + others.var(ddof=1) / len(others)) ** 0.5)
    if not error:
        return False
    t = float(values.mean() - others.mean()) / error
    return t > 0 and student_p_value(t, min(len(values), len(others)) - 1) < ALPHA


def main() -> int:
    """Print the tables; 1 if a limit is exceeded."""
    (draws, generator, started), limits = begin("answer_positions_null", __doc__, 400, "draws"), Limits()
    heads = "answers", f"{'tokens':>20}", "candidates", "growth found %", "by token: %", "unpaired: %"
    table = Table(f"KL is constant over positions: {draws} tables a line", *heads)
    for answers in (60, 200):
        for kind in KINDS:
            for candidates in CANDIDATES if kind == "dependent tokens" else CANDIDATES[:1]:
                drawn = [
                    [draw_candidate(generator, answers, kind) for _ in range(candidates)]
                    for _ in range(draws)
                ]
                found = Rate(
                    sum(any(start is not None for start in find_starts(one)) for one in drawn), draws
                )
                by_token = Rate(sum(any(map(claims_by_tokens, one)) for one in drawn), draws)
                unpaired = Rate(sum(any(map(claims_unpaired, one)) for one in drawn), draws)
                limits.false.append(found)
                table.row(answers, kind, candidates, found, by_token, unpaired)
    heads = "answers", "from token", "KL times", "just there %", "earlier %", "others grow %"
    table = Table(
        f"one of {CANDIDATES[-1]} candidates has more KL from a token on: {draws // 2} tables", *heads
    )
    for answers in (60, 200):
        for planted in PLANTED:
            just = earlier = others = 0
            for _ in range(draws // 2):
                kinds = [planted, *[None] * (CANDIDATES[-1] - 1)]
                starts = find_starts([draw_candidate(generator, answers, KINDS[2], one) for one in kinds])
                just += starts[0] == planted[0]
                earlier += starts[0] is not None and starts[0] < planted[0]
                others += any(start is not None for start in starts[1:])
            rates = [Rate(times, draws // 2) for times in (just, earlier, others)]
            limits.false += rates[1:]
            if answers == 200 and planted[1] == LARGE:
                limits.powers.append(rates[0])
            table.row(answers, f"{planted[0]:,}", planted[1], *rates)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
