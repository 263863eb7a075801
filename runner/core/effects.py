"""Effects: by how much one run differs from another. Each statistic is one function here; `judge` decides on all.

Pure Python, like the statistics that it uses (stats.py, ratios.py, sequential.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from statistics import median
from typing import Any

from runner.core import ratios, stats
from runner.core.margins import MarginVerdict, questions_needed
from runner.core.metrics import Better
from runner.core.paired_means import MeanDifference
from runner.core.sequential import Pairs, p_at_any_look
from runner.core.stats import ALPHA


class Finding(StrEnum):
    """The possible findings of a comparison; no test can show that two runs are equal."""

    better = "better"
    worse = "worse"
    larger = "larger"
    smaller = "smaller"
    open = "no difference shown"


class Method(StrEnum):
    """The test that an effect's p comes from."""

    mcnemar = "mcnemar"  # exact, paired on the same questions
    fisher = "fisher"  # exact, for questions that cannot be paired
    sequential = "sequential"  # bets on the pairs in the order of the questions, where a run stopped early
    sign_flips = "sign_flips"  # signs of paired log-likelihoods' differences
    number_flips = "number_flips"  # signs of the differences of any number that each question has
    mean_flips = "mean_flips"  # signs of paired means' differences: of clusters of questions, or of several samples
    rank_sum = "rank_sum"  # exact, over the repeats of a measurement


@dataclass
class Effect:
    """By how much a run differs from its baseline, the result of a test, and the smallest difference it can detect.

    A difference is this run minus the baseline, a ratio this run over the baseline.
    """

    method: Method
    measure: str  # what differs; of a figure with several cells: FIGURE/CELL
    value: float
    low: float  # of the 95 % interval
    high: float
    p: float
    n: int  # pairs, samples or repeats of this run
    baseline_n: int
    counts: dict[str, Any] = field(default_factory=dict)  # further counts of the method, by their names in JSON
    is_ratio: bool = False
    better: Better = Better.higher  # which direction of the measure is better
    detects: Callable[[float], float | None] | None = None  # level → smallest detectable true difference
    p_at: Callable[[float], float] | None = None  # true value → two-sided p against it
    needs: Callable[[float, float], int | None] | None = None  # margin, level → questions that decide about it
    remark: str | None = None  # what else a reader has to know
    # Filled in by `judge`
    p_holm: float = 1.0
    comparisons: int = 1  # the number of comparisons that p_holm is adjusted for
    finding: Finding = Finding.open
    detectable: float | None = None
    margin: float | None = None
    verdict: MarginVerdict | None = None  # about the margin; None without a margin
    needed: int | None = None  # the total number of questions that would decide if neither run is better

    def __post_init__(self) -> None:
        """Widen an interval that excludes the neutral value although the test, which decides, does not reject it."""
        if self.p >= ALPHA:
            self.low, self.high = min(self.low, self.neutral), max(self.high, self.neutral)

    @property
    def neutral(self) -> float:
        """The value of two runs that do not differ."""
        return 1.0 if self.is_ratio else 0.0


def judge(effects: Iterable[Effect], margins: Mapping[str, float] | None = None) -> None:
    """Adjust p over all effects of a table on one measure (by Holm), and decide what each one shows.

    `margins`: for a measure, also decide which differences are above minus its margin, adjusted in the same way.
    """
    families: dict[str, list[Effect]] = {}
    for it in effects:
        families.setdefault(it.measure.partition("/")[0], []).append(it)
    for measure, family in families.items():
        for it, p_holm in zip(family, stats.holm([one.p for one in family]), strict=True):
            it.p_holm, it.comparisons = p_holm, len(family)
            is_neutral = it.is_ratio or it.better is Better.neither
            up, down = (Finding.larger, Finding.smaller) if is_neutral else (Finding.better, Finding.worse)
            if it.better is Better.lower:
                up, down = down, up
            if p_holm < ALPHA and it.value != it.neutral:
                it.finding = up if it.value > it.neutral else down
            # Holm asks for no stricter level than ALPHA / comparisons: the difference is detectable at any rank.
            it.detectable = it.detects(ALPHA / len(family)) if it.detects else None
        margin = (margins or {}).get(measure)
        if margin is not None:
            _judge_margin([it for it in family if it.p_at is not None], margin)


def _judge_margin(family: list[Effect], margin: float) -> None:
    ps = [it.p_at(-margin) for it in family if it.p_at is not None]
    for it, p_holm in zip(family, stats.holm(ps), strict=True):
        it.margin, it.verdict = margin, MarginVerdict.undecided
        if it.finding is Finding.better:
            it.verdict = MarginVerdict.better
        elif p_holm < ALPHA and it.value < -margin:
            it.verdict = MarginVerdict.worse_by_more
        elif p_holm < ALPHA and it.value > -margin:
            it.verdict = MarginVerdict.as_good if it.finding is not Finding.worse else MarginVerdict.worse_but_within
        elif it.needs is not None:
            it.needed = it.needs(margin, ALPHA / len(family))


# --------------------------------------------------------------------------------------------------- accuracies


def paired_accuracies(wins: int, losses: int, n: int, baseline_correct: int = 0) -> Effect:
    """Compare verdicts on the same n questions: wins are those that only this run solved, losses the reverse."""
    discordant_rate = (wins + losses) / n if n else 0.0
    return Effect(
        Method.mcnemar,
        "accuracy",
        (wins - losses) / n if n else 0.0,
        *stats.paired_difference_interval(wins, losses, n),
        stats.mcnemar_exact(wins, losses),
        n,
        n,
        _verdicts(wins, losses, n - wins - losses, baseline_correct),
        detects=partial(stats.detectable_difference, n, discordant_rate),
        p_at=partial(stats.paired_difference_p, wins, losses, n),
        needs=lambda margin, alpha: questions_needed(margin, discordant_rate, alpha),
    )


def paired_means(
    differences: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    by: str = "",
    samples: int = 1,
    baseline_correct: int = 0,
) -> Effect:
    """Compare mean verdicts, of so many samples each, by each question's difference; `by` names the clusters' field."""
    it, wins, losses = (
        MeanDifference.of(differences, clusters),
        sum(d > 0 for d in differences),
        sum(d < 0 for d in differences),
    )
    count = len(it.sums)
    grouping = f", mean of {samples} samples" * (samples > 1) + f", in {count:,} families by {by}" * bool(by)
    return Effect(
        Method.mean_flips,
        "accuracy",
        it.difference,
        *it.interval(),
        it.p,
        it.n,
        it.n,
        _verdicts(wins, losses, it.n - wins - losses, baseline_correct)
        | {"clusters": count if by else None, "samples": samples, "grouping": grouping},
        detects=it.detects,
        p_at=it.p_at,
        needs=it.needs,
    )


def sequential_accuracies(pairs: Iterable[tuple[bool, bool]]) -> Effect:
    """Compare pairs of verdicts where one side stopped early: a test for one look would not be valid."""
    seen, looks, baseline_correct = Pairs(), [], 0
    for ours, theirs in pairs:
        seen.add(ours, theirs)
        looks.append((seen.wins, seen.losses, seen.ties))
        baseline_correct += theirs
    return Effect(
        Method.sequential,
        "accuracy",
        seen.difference,
        seen.low,
        seen.high,
        seen.p,
        seen.count,
        seen.count,
        _verdicts(seen.wins, seen.losses, seen.ties, baseline_correct),
        p_at=partial(p_at_any_look, looks),
    )


def unpaired_accuracies(correct: int, n: int, baseline_correct: int, baseline_n: int) -> Effect:
    """Compare verdicts by their counts alone, as if the questions had nothing in common."""
    pooled = (correct + baseline_correct) / (n + baseline_n)
    return Effect(
        Method.fisher,
        "accuracy",
        correct / n - baseline_correct / baseline_n,
        *stats.unpaired_difference_interval(correct, n, baseline_correct, baseline_n),
        stats.fisher_exact(correct, n, baseline_correct, baseline_n),
        n,
        baseline_n,
        _verdicts(None, None, None, baseline_correct),
        detects=partial(stats.unpaired_detectable_difference, n, baseline_n, pooled),
        p_at=partial(stats.unpaired_difference_p, correct, n, baseline_correct, baseline_n),
    )


def _verdicts(wins: int | None, losses: int | None, ties: int | None, baseline_correct: int) -> dict[str, Any]:
    counts = {"wins": wins, "losses": losses, "ties": ties, "baseline_correct": baseline_correct}
    return counts | {"clusters": None, "samples": 1}


# ------------------------------------------------------------------------------------- likelihoods and repeats


def paired_likelihoods(differences: Sequence[float], sizes: Sequence[float], unit: str) -> Effect:
    """Compare log-likelihoods of the same samples: their differences in nats, and how many units each sample has."""
    error, n = ratios.ratio_error(differences, sizes), len(differences)
    bend = ratios.skewness(differences, sizes) / math.sqrt(n)
    return Effect(
        Method.sign_flips,
        "log_likelihood",
        ratios.ratio(differences, sizes),
        *ratios.paired_interval(differences, sizes),
        ratios.paired_p(differences, sizes),
        n,
        n,
        {"error": error, "size": int(sum(sizes)), "unit": unit},
        detects=lambda alpha: ratios.detectable_shift(error, n, alpha, bend),
        p_at=lambda shift: ratios.paired_p(
            [difference - shift * size for difference, size in zip(differences, sizes, strict=True)], sizes
        ),
    )


def paired_numbers(
    name: str, differences: Sequence[float], sizes: Sequence[float], better: Better, means: tuple[float, float]
) -> Effect:
    """Compare a number that each question has, from sums over so many questions; `means` are those of both sides."""
    it = paired_likelihoods(differences, sizes, name)
    counts = {"error": it.counts["error"], "questions": int(sum(sizes)), "unit": name}
    counts |= {"mean": means[0], "baseline_mean": means[1], "grouping": ""}
    return replace(it, method=Method.number_flips, measure=f"number:{name}", better=better, counts=counts)


def ratio_of_medians(measure: str, repeats: Sequence[float], baseline: Sequence[float]) -> Effect:
    """Compare the repeats of one measurement, all above 0."""
    return Effect(
        Method.rank_sum,
        measure,
        median(repeats) / median(baseline),
        *stats.bootstrap_ratio_interval(repeats, baseline),
        stats.rank_sum_exact(repeats, baseline),
        len(repeats),
        len(baseline),
        is_ratio=True,
    )


def repeats_needed(comparisons: int) -> int:
    """Return how many repeats per side can show a difference in one of so many comparisons, if no values overlap."""
    needed = 1
    while 2 / math.comb(2 * needed, needed) >= ALPHA / comparisons:
        needed += 1
    return needed
