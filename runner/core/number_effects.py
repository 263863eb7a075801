"""Effects of numbers that are no verdicts: likelihoods, other numbers of each question, and repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from runner.core import ratios
from runner.core.effects import Effect, Method
from runner.core.metrics import Better
from runner.core.over_runs import MIN_RUNS, RatioOfRuns, runs_needed
from runner.core.planning import samples_to_detect


def paired_likelihoods(differences: Sequence[float], sizes: Sequence[float], unit: str) -> Effect:
    """Compare log-likelihoods of the same samples: their differences in nats, and how many units each sample has."""
    error, n = ratios.ratio_error(differences, sizes), len(differences)
    bend = ratios.skewness(differences, sizes) / math.sqrt(n)
    needs = partial(samples_to_detect, error, n, bend=bend)  # a margin is a difference that a test has to exclude
    return Effect(
        Method.sign_flips,
        "log_likelihood",
        ratios.ratio(differences, sizes),
        *ratios.paired_interval(differences, sizes),
        ratios.paired_p(differences, sizes),
        n,
        n,
        {"error": error, "size": int(sum(sizes)), "unit": unit},
        detects=lambda alpha: ratios.detectable_shift(error, n, alpha, bend=bend),
        p_at=lambda shift: ratios.paired_p(
            [difference - shift * size for difference, size in zip(differences, sizes, strict=True)], sizes
        ),
        needs=needs,
        needs_to_detect=needs,
        texts=(differences, sizes),
    )


def paired_numbers(
    name: str, differences: Sequence[float], sizes: Sequence[float], better: Better, means: tuple[float, float]
) -> Effect:
    """Compare a number that each question has, from sums over so many questions; `means` are those of both sides."""
    it = paired_likelihoods(differences, sizes, name)
    counts = {"error": it.counts["error"], "questions": int(sum(sizes)), "unit": name}
    counts |= {"mean": means[0], "baseline_mean": means[1], "grouping": ""}
    return replace(it, method=Method.number_flips, measure=f"number:{name}", better=better, counts=counts)


@dataclass(frozen=True)
class Measured:
    """What one side has measured of one figure, all above 0."""

    repeats: Sequence[float]  # of the newest run
    runs: Sequence[float]  # one figure for each process
    has_fresh_processes: bool = False  # whether each repeat was a process of its own


def ratio_of_measurements(measure: str, ours: Measured, theirs: Measured) -> Effect:
    """Compare a figure over runs or, with too few of them, say only how far apart its repeats were in two processes."""
    n, baseline_n = len(ours.runs), len(theirs.runs)
    counts = {
        "repeats": len(ours.repeats),
        "baseline_repeats": len(theirs.repeats),
        "has_fresh_processes": ours.has_fresh_processes,
    }
    if min(n, baseline_n) < MIN_RUNS:
        value = median(ours.repeats) / median(theirs.repeats)
        ends = min(ours.repeats) / max(theirs.repeats), max(ours.repeats) / min(theirs.repeats)
        return Effect(Method.too_few_runs, measure, value, *ends, 1.0, n, baseline_n, counts, is_ratio=True)
    over = RatioOfRuns.of(ours.runs, theirs.runs)
    spread = over.error * math.sqrt(1 / (1 / n + 1 / baseline_n))  # of a run, as if both sides had the same
    return Effect(
        Method.student_t,
        measure,
        over.ratio,
        *over.interval(),
        over.p_at(1.0),
        n,
        baseline_n,
        counts,
        is_ratio=True,
        p_at=over.p_at,
        needs=lambda margin, alpha: runs_needed(math.log1p(margin) / spread, alpha) if spread else None,
    )
