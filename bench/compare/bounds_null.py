"""Do the bounds hold where answers are cut off? `python bench/compare/bounds_null.py`.

Each question has an answer that a model would give without a limit, right or wrong, and its length; hard questions take
longer. A limit cuts off the longest answers. Bounds: the interval *without limit* has to hold the true accuracy; the
usual interval, which counts an answer that was cut off as wrong, is the control. Over seeds, Student's t alone is the
control; of unpaired differences, Wilson's ends. Verdicts: two models are equally
good, and one of them writes longer answers; or it is worse by exactly the margin, and the other one is cut off more
often. The verdicts are runner-compare's own; the control is what would be said if all that was cut off were wrong. The
limit: answers have limits of several sizes, as where prompts and answers share the model's context; the interval of
the suggested limit has to hold the one that lets 95 % finish. The control takes the quantile of the finished answers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from statistics import fmean

import numpy as np
from scipy.stats import binom
from simulation import GOOD, NORMAL, Drawn, Limits, Numbers, Rate, Solved, Table, begin

from runner.core.finishing import WANTED, AnswerLength, FinishingCurve
from runner_compare.model.data import Run
from runner_compare.statistics import Decision, Finding, decide_comparisons_with_holm
from runner_compare.statistics.accuracy_intervals import compute_accuracy_bound_metrics
from runner_compare.statistics.seed_means import (
    compute_accuracy_interval_over_seeds,
    compute_exact_interval_over_seeds,
)
from runner_compare.statistics.stats import (
    compute_clopper_pearson_interval,
    compute_unpaired_difference_interval,
    compute_wilson_interval,
)
from runner_compare.ways.verdicts import compare_pair

CUT_OFF = (0.05, 0.2, 0.5)  # the shares that are cut off
SETTINGS = [(50, 0.7), (200, 0.9), (200, 0.5), (1319, 0.8)]  # questions, true accuracy
HARDER = (0.0, 0.8)  # how lengths go with difficulty
RHO = 0.8  # how the verdicts do
SPREAD = 0.6  # of the logarithm of a length
MARGIN = 0.05
DIFFERENCES = (0.0, 0.02, 0.05, 0.1, 0.2)  # of two shares whose questions are not paired
SEEDS = (3, 5, 10)


def exact_rates() -> None:
    """Print how often an end is beyond the truth at the worst truth: by binomial chances, nothing
    is drawn."""
    table = Table(
        "each end by itself, at the worst true accuracy", "n", "guaranteed", "at", "Wilson's", "at "
    )
    truths = np.linspace(0.0005, 0.9995, 1999)
    for n in (10, 20, 50, 100, 200, 1319):
        chances, cells = binom.pmf(np.arange(n + 1)[:, None], n, truths), []
        for interval in (compute_clopper_pearson_interval, compute_wilson_interval):
            ends = np.array([interval(k, n) for k in range(n + 1)])
            beyond = [(chances * (ends[:, :1] > truths)).sum(0), (chances * (ends[:, 1:] < truths)).sum(0)]
            worst = np.maximum(*beyond)
            cells += [f"{worst.max():.2%}", f"{truths[worst.argmax()]:.1%}"]
        table.row(n, *cells)


def unpaired_rates() -> None:
    """Print how often an end of an unpaired difference is beyond the truth at the worst rates;
    nothing is drawn."""
    heads = (
        "n of each",
        "up to 20 points: an end",
        "Wilson's ends",
        "near ±100 points: an end",
        "Wilson's ends",
    )
    table = Table("an unpaired difference, at the worst true shares", *heads)
    high_rates = np.linspace(0.5, 0.995, 34)
    extremes = [(p, q) for p in high_rates[-8:] for q in 1 - high_rates[-8:]]
    for n in (20, 50, 100, 200, 400):
        counts, cells = np.arange(n + 1), []
        for pairs in ([(p, p - d) for p in high_rates for d in DIFFERENCES], extremes):
            for interval in (compute_clopper_pearson_interval, compute_wilson_interval):
                ends = np.array([interval(int(k), n) for k in counts])
                shares = counts / n
                below, above = shares - ends[:, 0], ends[:, 1] - shares
                low = shares[:, None] - shares - np.hypot(below[:, None], above)
                high = shares[:, None] - shares + np.hypot(above[:, None], below)
                worst = 0.0
                for p, q in pairs:
                    chances = np.outer(binom.pmf(counts, n, p), binom.pmf(counts, n, q))
                    beyond = low > p - q + 1e-12, high < p - q - 1e-12
                    worst = max(worst, *(float(chances[where].sum()) for where in beyond))
                cells.append(f"{worst:.2%}")
                if interval is compute_clopper_pearson_interval:  # the product's own
                    drawn_low, drawn_high = compute_unpaired_difference_interval(n // 2, n, n // 4, n)
                    at = n // 2, n // 4
                    assert np.allclose((drawn_low, drawn_high), (low[at], high[at])), (
                        "another interval than here"
                    )
        table.row(n, *cells)


def over_seeds(generator: np.random.Generator, pairs: int, limits: Limits) -> None:
    """Print how often the ends over seeds miss; a rare seed that is bad has no limit, as no end
    allows for it."""
    heads = (
        "questions",
        "seeds",
        "what differs",
        "lower end misses %",
        "upper end misses %",
        "Student's lower %",
    )
    table = Table(f"an accuracy over seeds: {pairs:,} rows a line", *heads, "Student's upper %")
    kinds = "3 % never solved", "seeds ± 3 points", "1 seed of 10 is bad"
    for n in (50, 200):
        for seeds in SEEDS:
            for kind in kinds:
                found = []
                for _ in range(pairs):
                    solved, true = of_seeds(generator, kind, n, seeds)
                    new, old = (
                        compute_exact_interval_over_seeds(solved),
                        compute_accuracy_interval_over_seeds(solved),
                    )
                    found.append((new[0] > true, new[1] < true, old[0] > true, old[1] < true))
                rates = [rate(of) for of in zip(*found, strict=True)]
                if kind != kinds[-1]:
                    limits.missed.append(Rate(rates[0].times + rates[1].times, pairs))
                table.row(n, seeds, kind, *rates)


def of_seeds(generator: np.random.Generator, kind: str, n: int, seeds: int) -> tuple[list[list[bool]], float]:
    """Draw what each seed solves, and return the true accuracy over questions and seeds."""
    if kind.startswith("3 %"):
        return [(generator.random(n) >= 0.03).tolist()] * seeds, 0.97
    if kind.startswith("seeds"):
        chances = np.clip(0.8 + 0.03 * generator.standard_normal((seeds, 1)), 0, 1)
        return (generator.random((seeds, n)) < chances).tolist(), 0.8
    chances = np.where(generator.random((seeds, 1)) < 0.1, 0.7, 1.0)
    return (generator.random((seeds, n)) < chances).tolist(), 0.97


def drawn(
    generator: np.random.Generator, n: int, accuracies: list[float], harder: float
) -> tuple[Solved, Numbers]:
    """Draw what runs would solve without a limit, and how long their answers are; the mean
    logarithm is 0."""
    hard = generator.standard_normal(n)
    own, lengths = generator.standard_normal((2, len(accuracies), n))
    bars = np.array([[NORMAL.inv_cdf(accuracy)] for accuracy in accuracies])
    solved: Solved = math.sqrt(RHO) * hard + math.sqrt(1 - RHO) * own < bars
    return solved, SPREAD * (harder * hard + math.sqrt(1 - harder**2) * lengths)


def limit_for(share: float) -> float:
    """Return the limit that cuts off a share of the answers, as the logarithm of a length."""
    return SPREAD * NORMAL.inv_cdf(1 - share)


def holds(
    generator: np.random.Generator, n: int, accuracy: float, share: float, harder: float
) -> tuple[bool, bool]:
    """Return whether the bounds hold the true accuracy of one run, and whether the usual interval
    does."""
    (solved,), (lengths,) = drawn(generator, n, [accuracy], harder)
    is_cut = lengths > limit_for(share)
    seen = solved & ~is_cut
    low, high = compute_wilson_interval(int(seen.sum()), n)
    found = compute_accuracy_bound_metrics(seen.tolist(), (seen | is_cut).tolist(), [None] * n)
    ends = (found["accuracy_uncut_low"], found["accuracy_uncut_high"]) if found else (low, high)
    return ends[0] <= accuracy <= ends[1], low <= accuracy <= high


def bounds(generator: np.random.Generator, pairs: int, limits: Limits) -> list[Rate]:
    """Print how often intervals miss the truth; return the rates of the control."""
    table = Table(
        f"an accuracy: {pairs:,} runs a line",
        *("n", "accuracy", "cut off", "harder longer", "bounds miss %", "usual interval misses %"),
    )
    controls = []
    for n, accuracy in SETTINGS:
        for share in CUT_OFF:
            for harder in HARDER:
                found = [holds(generator, n, accuracy, share, harder) for _ in range(pairs)]
                missed, control = (Rate(sum(not it for it in of), pairs) for of in zip(*found, strict=True))
                limits.missed.append(missed)
                controls.append(control)
                table.row(n, accuracy, f"{share:.0%}", harder, missed, control)
    return controls


def compared(
    generator: np.random.Generator,
    reader: Drawn,
    accuracies: tuple[float, float],
    shares: tuple[float, float],
) -> Decision:
    """Return the judged difference of two runs with such shares of answers cut off."""
    solved, lengths = drawn(generator, len(reader.questions), list(accuracies), HARDER[-1])
    base, run = (added(reader, *it) for it in zip(("base", "run"), solved, lengths, shares, strict=True))
    (decision,) = decide_comparisons_with_holm([compare_pair(run, base, reader)], {"accuracy": MARGIN})
    return decision


def added(reader: Drawn, name: str, solved: Solved, lengths: Numbers, share: float) -> Run:
    """Add a run of which the longest answers are cut off."""
    is_cut = lengths > limit_for(share)
    return reader.add(name, solved & ~is_cut, cut_off=is_cut)


def verdicts(generator: np.random.Generator, pairs: int, limits: Limits) -> list[Rate]:
    """Print how often verdicts are wrong, and how often a large difference is found; return those
    of the control."""
    heads = (
        "n",
        "accuracy",
        "cut off more",
        "false findings %",
        "as counted %",
        "called as good %",
        "as counted %",
    )
    table = Table(
        f"two models; one is cut off more often by a share: {pairs:,} pairs a line", *heads, "found %"
    )
    controls = []
    for n, accuracy in SETTINGS[1:]:
        reader = Drawn(n)
        for share in CUT_OFF:
            shares = 0.02, min(0.9, 0.02 + share)
            equal = [compared(generator, reader, (accuracy, accuracy), shares) for _ in range(pairs)]
            at_margin = [
                compared(generator, reader, (accuracy, accuracy - MARGIN), shares[::-1]) for _ in range(pairs)
            ]
            apart = [
                compared(generator, reader, (accuracy, accuracy / 3), (0.02, 0.05))
                for _ in range(pairs // 10)
            ]
            false = rate(it.finding is not Finding.open for it in equal)
            good = rate(it.verdict in GOOD for it in at_margin)
            counted = ([it.as_counted or it for it in equal], [it.as_counted or it for it in at_margin])
            controls += [
                rate(it.finding is not Finding.open for it in counted[0]),
                rate(it.verdict in GOOD for it in counted[1]),
            ]
            limits.false += [false, good]
            found = rate(it.finding is Finding.worse for it in apart)
            table.row(n, accuracy, f"{share:.0%}", false, controls[-2], good, controls[-1], found)
    return controls


def rate(happened: Iterable[bool]) -> Rate:
    """Return how often something happened."""
    every = list(happened)
    return Rate(sum(every), len(every))


def suggested(generator: np.random.Generator, n: int, share: float) -> tuple[FinishingCurve, float]:
    """Return the curve of answers of which a share is cut off, and the quantile of the finished
    ones."""
    lengths = np.exp(5 + SPREAD * generator.standard_normal(n))
    limits = np.exp(5 + limit_for(share) * math.sqrt(2) + SPREAD * generator.standard_normal(n))
    seen = [
        AnswerLength(math.ceil(min(pair)), pair[0] <= pair[1]) for pair in zip(lengths, limits, strict=True)
    ]
    finished = sorted(it.tokens for it in seen if it.finished)
    return FinishingCurve.estimate_from_answer_lengths(seen), finished[math.ceil(WANTED * len(finished)) - 1]


def finishing(tokens: float) -> float:
    """Return the share of all answers that finish within so many tokens."""
    return NORMAL.cdf((math.log(tokens) - 5) / SPREAD)


def limits_that_let_finish(generator: np.random.Generator, pairs: int, limits: Limits) -> list[float]:
    """Print the shares that suggested limits let finish; return the distance of those of the
    control from 95 %."""
    table = Table(
        f"the limit that lets {WANTED:.0%} finish: {pairs:,} jobs a line",
        *("n", "cut off", "can be told", "lets finish", "by finished ones", "interval misses %"),
    )
    controls = []
    for n in (200, 1319):
        for share in CUT_OFF:
            found = [suggested(generator, n, share) for _ in range(pairs)]
            told = [curve for curve, _ in found if curve.tokens is not None]
            true = math.exp(5 + SPREAD * NORMAL.inv_cdf(WANTED))
            missed = rate(not (it.low or 0) <= math.ceil(true) <= (it.high or math.inf) for it, _ in found)
            limits.missed.append(missed)
            lets = fmean(finishing(it.tokens) for it in told if it.tokens is not None) if told else math.nan
            naive = fmean(finishing(tokens) for _, tokens in found)
            controls.append(WANTED - naive)
            table.row(n, f"{share:.0%}", f"{len(told) / pairs:.0%}", f"{lets:.1%}", f"{naive:.1%}", missed)
    return controls


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded, or if a control does not fail."""
    (pairs, generator, started), limits = begin("bounds_null", __doc__), Limits()
    exact_rates()
    unpaired_rates()
    over_seeds(generator, pairs, limits)
    usual = bounds(generator, pairs, limits)
    counted = verdicts(generator, pairs, limits)
    naive = limits_that_let_finish(generator, pairs, limits)
    print(
        f"\ncontrols: the usual interval misses in up to {max(it.times / it.of for it in usual):.0%}, verdicts as"
    )
    print(
        f"counted are wrong in up to {max(it.times / it.of for it in counted):.0%}, the quantile of finished answers"
    )
    print(f"lets up to {100 * max(naive):.0f} points too few finish")
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
