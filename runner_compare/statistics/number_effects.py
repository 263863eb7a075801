"""Effects of numbers that are no verdicts: likelihoods, other numbers of each question, and repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from runner_compare.metrics import Better
from runner_compare.statistics import ratios, stats
from runner_compare.statistics.effects import Effect, Method
from runner_compare.statistics.over_runs import MIN_RUNS, RatioOfRuns, runs_needed
from runner_compare.statistics.planning import samples_to_detect

MIN_REPEATS = 2  # a side, in one process: a single one has no range
MIN_DIFFERING = (
    20  # questions: of fewer, the sizes of the observed differences say too little (bench/compare/numbers_null.py)
)


def paired_likelihoods(differences: Sequence[float], sizes: Sequence[float], unit: str) -> Effect:
    """Compare log-likelihoods of the same samples: their differences in nats, and how many units each sample has."""
    error, n = ratios.ratio_error(differences, sizes), len(differences)
    bend = ratios.skewness(differences, sizes) / math.sqrt(n)
    tails = ratios.kurtosis(differences, sizes)
    needs = partial(samples_to_detect, error, n, bend=bend, tails=tails)
    return Effect(
        Method.sign_flips,
        "log_likelihood",
        ratios.ratio(differences, sizes),
        *ratios.paired_interval(differences, sizes),
        ratios.paired_p(differences, sizes),
        n,
        n,
        {"error": error, "size": int(sum(sizes)), "unit": unit},
        detects=lambda alpha: ratios.detectable_shift(error, n, alpha, bend=bend, tails=tails),
        p_at=lambda shift: ratios.paired_p(
            [difference - shift * size for difference, size in zip(differences, sizes, strict=True)], sizes
        ),
        needs=partial(needs, upward=True),  # a margin is a difference that a test has to exclude
        needs_to_detect=needs,
        texts=(differences, sizes),
    )


def paired_numbers(
    name: str,
    differences: Sequence[float],
    sizes: Sequence[float],
    better: Better,
    ours: Sequence[float],
    theirs: Sequence[float],
) -> Effect:
    """Compare a number that each question has, from sums of differences over so many questions.

    Where few questions differ, the next one may differ by the whole range of the numbers, and the observed differences
    do not show that: then the differences also count by their signs alone, each as large as that range, and the
    interval joins both. What could be detected is then not known: it depends on how many more questions differ.
    """
    it = paired_likelihoods(differences, sizes, name)
    least, most, n = min(*ours, *theirs), max(*ours, *theirs), len(sizes)
    means = [math.fsum(side) / len(side) for side in (ours, theirs)]
    counts = {"error": it.counts["error"], "questions": int(sum(sizes)), "unit": name}
    counts |= {"mean": means[0], "baseline_mean": means[1], "grouping": ""}
    wins, losses = sum(one > 0 for one in differences), sum(one < 0 for one in differences)
    few_differ = wins + losses < MIN_DIFFERING
    widest = (most - least) * max(sizes) * n / math.fsum(sizes)
    low, high, by_flips = it.low, it.high, it.p_at
    assert by_flips is not None

    def p_at(shift: float) -> float:
        p = by_flips(shift)
        if not few_differ or not widest:
            return p
        return max(p, stats.paired_difference_p(wins, losses, n, max(-1.0, min(1.0, shift / widest))))

    if few_differ and widest:
        by_signs = stats.paired_difference_interval(wins, losses, n)
        low, high = min(low, widest * by_signs[0]), max(high, widest * by_signs[1])
    lost = [most - value if better is Better.lower else value - least for value in theirs]
    loss = math.fsum(value**2 for value in lost) / math.fsum(lost) if any(lost) else 0.0
    loss *= n / math.fsum(sizes)

    def detects_at_worst(alpha: float) -> float | None:
        moved = it.detects(alpha) if it.detects else None
        return None if moved is None else max(moved, ratios.detectable_loss(counts["error"], n, loss, alpha))

    return replace(
        it,
        method=Method.number_flips,
        measure=f"number:{name}",
        better=better,
        counts=counts,
        low=low,
        high=high,
        p=p_at(0.0),
        p_at=p_at,
        detects=None if few_differ else it.detects,
        detects_at_worst=None if few_differ else detects_at_worst,
        needs=None,
        needs_to_detect=None,
    )


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
        if min(len(ours.repeats), len(theirs.repeats)) < MIN_REPEATS:
            ends = -math.inf, math.inf
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
