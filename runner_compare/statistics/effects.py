"""Effects: by how much one run differs from another. Each statistic is one function here; `judge` decides on all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from runner_compare.metrics import Better, described
from runner_compare.statistics import stats
from runner_compare.statistics.margins import MarginVerdict, margin_verdict, questions_needed
from runner_compare.statistics.planning import expected_disagreement, questions_to_detect, smallest_detectable
from runner_compare.statistics.sequential import Decision, Pairs, confidence_percent, level_of
from runner_compare.statistics.stats import ALPHA, POWER

FINEST = 0.001  # a difference of accuracies, as it is shown
CUT_OFF_DECIDES = "cut-off answers decide it"
RATIOS = "ratios"  # the margin of all ratios, whatever they measure


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
    weighted_flips = "weighted_flips"  # exact, paired, over several tasks whose questions have other weights
    fisher = "fisher"  # exact, for questions that cannot be paired
    sequential = "sequential"  # bets on the pairs in the order of the questions, where a run was compared while it ran
    sign_flips = "sign_flips"  # signs of paired log-likelihoods' differences
    number_flips = "number_flips"  # signs of the differences of any number that each question has
    mean_flips = "mean_flips"  # signs of paired means' differences: of clusters of questions, or of several samples
    over_seeds = "over_seeds"  # the same over jobs that differ in their seed, which count as well as questions
    student_t = "student_t"  # over runs of a measurement, each in a process of its own
    too_few_runs = "too_few_runs"  # no test: repeats within one process say nothing about another one


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
    n: int  # pairs or samples; of a measurement, the runs of this job
    baseline_n: int
    counts: dict[str, Any] = field(default_factory=dict)  # further counts of the method, by their names in JSON
    is_ratio: bool = False
    better: Better = Better.higher  # which direction of the measure is better
    detects: Callable[[float], float | None] | None = None  # level → smallest detectable true difference
    detects_at_worst: Callable[[float], float | None] | None = None  # the same where few have all of the difference
    p_at: Callable[[float], float] | None = None  # true value → two-sided p against it
    needs: Callable[..., int | None] | None = None  # margin, level[, power] → questions or runs that decide
    needs_to_detect: Callable[..., int | None] | None = None  # difference, level[, power] → questions that detect it
    early_stop_comparisons: int | None = None  # these share 5 %, as fixed before the run; None: those of the table do
    side_of: Callable[[float], Decision] | None = None  # value → on which side of it bets at that share see the truth
    texts: tuple[Sequence[float], Sequence[float]] | None = None  # of likelihoods: each text's difference and size
    cut_off: tuple[int, int] = (0, 0)  # answers of this run and of the baseline that were cut off
    ends: tuple[Effect, Effect] | None = None  # if any: with ours wrong and the baseline's right, and the reverse
    remark: str | None = None  # what else a reader has to know
    unplanned: str = ""  # why more questions of this kind would not decide
    tells_more: str = ""  # which questions would tell more, if all verdicts are the same
    # Filled in by `judge`
    p_holm: float = 1.0
    comparisons: int = 1  # the number of comparisons that p_holm is adjusted for
    finding: Finding = Finding.open
    detectable: float | None = None
    detectable_at_worst: float | None = None  # where a few questions or families have all of it
    margin: float | None = None
    verdict: MarginVerdict | None = None  # about the margin; None without a margin
    needed: int | None = None  # the questions, or the runs a side, that would decide if neither run is better
    as_counted: Effect | None = None  # with ends: what would be decided if what was cut off were known to be wrong

    def __post_init__(self) -> None:
        """Widen an interval that excludes the neutral value although the test, which decides, does not reject it."""
        if self.p >= ALPHA and self.is_tested:
            self.low, self.high = min(self.low, self.neutral), max(self.high, self.neutral)

    def p_beyond(self, limit: float) -> float:
        """Return the two-sided p against a limit on the worse side of the neutral value, together with the test there.

        A run that is worse by more than a margin is worse, and one that is better is above the margin: the two tests
        may differ in kind, but what they show never contradicts.
        """
        assert self.p_at is not None
        p = self.p_at(limit)
        if min(limit, self.neutral) < self.value < max(limit, self.neutral) or self.value in (limit, self.neutral):
            return p
        is_worse_by_more = (self.value < limit) == (limit < self.neutral)
        return max(p, self.p) if is_worse_by_more else min(p, self.p)

    def decisive_p(self, limit: float | None = None) -> float:
        """Return the p against a limit, or against no difference: the largest one of whatever was cut off could say."""
        p = self.p if limit is None else self.p_beyond(limit)
        if self.ends is None:
            return p
        (low, high), value = self.ends, self.neutral if limit is None else limit
        if low.value > value:
            return max(p, low.decisive_p(limit))
        return max(p, high.decisive_p(limit)) if high.value < value else 1.0

    def side_by_bets(self, value: float) -> Decision:
        """Return on which side of a value its bets see the truth, whatever the answers that were cut off would be."""
        assert self.side_of is not None
        if self.ends is None:
            return self.side_of(value)
        low, high = (it.side_by_bets(value) for it in self.ends)
        return low if low is Decision.better else high if high is Decision.worse else Decision.open

    @property
    def hinges_on_cut_off(self) -> bool:
        """Whether something would be decided if what was cut off were known to be wrong, and is not."""
        was = self.as_counted
        return was is not None and (was.finding, was.verdict) != (self.finding, self.verdict)

    def with_ends(self, cut_off: tuple[int, int], low: Effect, high: Effect) -> Effect:
        """Return it with both ends: this run's cut-off answers wrong and the baseline's right, and the reverse."""
        return replace(self, cut_off=cut_off, ends=(_without_power(low), _without_power(high)))

    def without_plan(self, why: str) -> Effect:
        """Return it without numbers of questions that would decide."""
        return replace(self, needs=None, needs_to_detect=None, unplanned=why)

    @property
    def is_tested(self) -> bool:
        """Whether a test decides about it; otherwise low and high are a range, and p means nothing."""
        return self.method is not Method.too_few_runs

    @property
    def neutral(self) -> float:
        """The value of two runs that do not differ."""
        return 1.0 if self.is_ratio else 0.0


def _without_power(it: Effect) -> Effect:
    """Return an end of what was cut off: what it could detect is not shown."""
    return replace(it, needs=None, detects=None, detects_at_worst=None)


def judge(effects: Iterable[Effect], margins: Mapping[str, float] | None = None, metrics: int = 1) -> None:
    """Decide what each effect of a table shows, with one error of 5 % for each measure (by Holm and Shaffer).

    A run that was compared while it ran has decided at its own share of the 5 %: its verdict stands, whatever else the
    table has. `margins`: for a measure, also decide which differences are above minus its margin, or below. A true
    difference is at most one of 0 and minus the margin, so findings and verdicts share the error of a comparison.
    Where answers were cut off, only what both ends show is decided. So many `metrics` of one score share the 5 %.
    """
    of_table, margins = list(effects), margins or {}
    _judge(of_table, margins, metrics)
    if not any(it.ends for it in of_table):
        return
    counted = [replace(it, ends=None, needs=None) for it in of_table]
    for version in (counted, *([(it.ends or (replace(it),) * 2)[end] for it in of_table] for end in (0, 1))):
        _judge(version, margins, metrics)
    for it, as_counted in zip(of_table, counted, strict=True):
        it.as_counted = as_counted
        if it.hinges_on_cut_off:
            it.needs = it.needs_to_detect = it.needed = None
            it.unplanned = it.unplanned or CUT_OFF_DECIDES


def _judge(effects: Sequence[Effect], margins: Mapping[str, float], metrics: int) -> None:
    """Decide what each effect shows, by the p of the worse of its ends."""
    families: dict[str, list[Effect]] = {}
    for it in effects:
        measure = it.measure.partition("/")[0]
        margin = margins.get(measure)
        if it.early_stop_comparisons is None:
            families.setdefault(measure, []).append(it)
        else:
            _take_over(it, margin)
    for measure, family in families.items():
        margin = margins.get(RATIOS if family[0].is_ratio else measure)
        groups = [
            [it.decisive_p()]
            if margin is None or it.p_at is None
            else [it.decisive_p(), it.decisive_p(_limit(it, margin))]
            for it in family
        ]
        for it, (p_holm, *p_margin) in zip(family, stats.holm_of_groups(groups, metrics), strict=True):
            it.p_holm, it.comparisons = p_holm, len(family) * metrics
            is_neutral = it.is_ratio or it.better is Better.neither
            up, down = (Finding.larger, Finding.smaller) if is_neutral else (Finding.better, Finding.worse)
            if it.better is Better.lower:
                up, down = down, up
            if p_holm < ALPHA and it.value != it.neutral:
                it.finding = up if it.value > it.neutral else down
            # Holm asks for no stricter level than ALPHA / comparisons: the difference is detectable at any rank.
            level = ALPHA / it.comparisons
            it.detectable = it.detects(level) if it.detects else None
            it.detectable_at_worst = it.detects_at_worst(level) if it.detects_at_worst else None
            if margin is not None and (p_margin or it.is_ratio):
                _judge_margin(it, margin, *p_margin)


def _take_over(it: Effect, margin: float | None) -> None:
    """Take over what the bets of a run have decided at its share: the very claims that it would stop at."""
    assert it.early_stop_comparisons is not None
    findings = {Decision.better: Finding.better, Decision.worse: Finding.worse, Decision.open: Finding.open}
    it.comparisons, it.p_holm = it.early_stop_comparisons, min(1.0, it.decisive_p() * it.early_stop_comparisons)
    it.finding = findings[it.side_by_bets(0.0)]
    if margin is not None:
        it.margin, it.verdict = margin, margin_verdict(it.side_by_bets(0.0), it.side_by_bets(-margin))


def most_wrong(effects: Sequence[Effect]) -> float:
    """Return the share of tables with any wrong finding, at most: 5 % for Holm's family, and each share of a run."""
    adjusted = [it for it in effects if it.early_stop_comparisons is None]
    return ALPHA * bool(adjusted) + sum(
        level_of(it.early_stop_comparisons) for it in effects if it.early_stop_comparisons
    )


def _judge_margin(it: Effect, margin: float, p_holm: float = 1.0) -> None:
    """Decide whether an effect is within the margin; a ratio that no test decides about is undecided."""
    it.margin, it.verdict = margin, MarginVerdict.undecided
    sign = _better_sign(it)
    worse = Finding.worse if not it.is_ratio else Finding.smaller if sign > 0 else Finding.larger
    if it.finding not in (Finding.open, worse):
        it.verdict = MarginVerdict.better
    elif p_holm < ALPHA and sign * (it.value - _limit(it, margin)) < 0:
        it.verdict = MarginVerdict.worse_by_more
    elif p_holm < ALPHA:
        it.verdict = MarginVerdict.worse_but_within if it.finding is worse else MarginVerdict.as_good
    elif it.needs is not None and it.finding is Finding.open:  # else it was just shown that the two are not alike
        it.needed = it.needs(margin, ALPHA / it.comparisons)


def _better_sign(it: Effect) -> int:
    """Return the sign of an improvement: of a difference 1, of a ratio that of its measure."""
    return described(it.measure).better.value if it.is_ratio else 1


def _limit(it: Effect, margin: float) -> float:
    """Return the value at the margin: minus it, or where the baseline is better by a factor of 1 + margin."""
    return float((1 + margin) ** -_better_sign(it)) if it.is_ratio else -margin


# --------------------------------------------------------------------------------------------------- accuracies


def paired_accuracies(wins: int, losses: int, n: int, baseline_correct: int = 0) -> Effect:
    """Compare verdicts on the same n questions: wins are those that only this run solved, losses the reverse."""
    discordant_rate = (wins + losses) / n if n else 0.0
    expected = expected_disagreement(wins + losses, n)
    p = stats.mcnemar_exact(wins, losses)
    low, high = stats.paired_difference_interval(wins, losses, n)
    if p < ALPHA:  # of a few tables below 80 pairs the interval would hold 0
        low, high = _without_zero(low, high, wins > losses)
    return Effect(
        Method.mcnemar,
        "accuracy",
        (wins - losses) / n if n else 0.0,
        low,
        high,
        p,
        n,
        n,
        verdict_counts(wins, losses, n - wins - losses, baseline_correct),
        detects=partial(smallest_detectable, n, discordant_rate),
        p_at=partial(stats.paired_difference_p, wins, losses, n),
        needs=lambda margin, alpha, power=POWER: questions_needed(margin, expected, alpha, power, (wins, losses, n)),
        needs_to_detect=partial(questions_to_detect, expected),
    )


def sequential_accuracies(pairs: Iterable[tuple[bool, bool]], early_stop_comparisons: int | None = None) -> Effect:
    """Compare pairs of verdicts where a side was compared while it ran: a test for one look would not be valid.

    `early_stop_comparisons`: as many share the 5 % as was fixed before that run.
    """
    seen, baseline_correct = Pairs(level_of(early_stop_comparisons or 1)), 0
    for ours, theirs in pairs:
        seen.add(ours, theirs)
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
        verdict_counts(seen.wins, seen.losses, seen.ties, baseline_correct)
        | {"confidence": confidence_percent(early_stop_comparisons or 1)},
        early_stop_comparisons=early_stop_comparisons,
        p_at=seen.p_against,
        side_of=seen.side_of,
    )


def unpaired_accuracies(correct: int, n: int, baseline_correct: int, baseline_n: int) -> Effect:
    """Compare verdicts by their counts alone, as if the questions had nothing in common."""
    from scipy.stats import fisher_exact  # takes a second to import, and only unpaired runs need it

    pooled = (correct + baseline_correct) / (n + baseline_n)
    table = [[correct, n - correct], [baseline_correct, baseline_n - baseline_correct]]
    difference, p = correct / n - baseline_correct / baseline_n, float(fisher_exact(table).pvalue)
    low, high = stats.unpaired_difference_interval(correct, n, baseline_correct, baseline_n)
    if p < ALPHA:  # of some small tables the interval would hold 0
        low, high = _without_zero(low, high, difference > 0)
    return Effect(
        Method.fisher,
        "accuracy",
        difference,
        low,
        high,
        p,
        n,
        baseline_n,
        verdict_counts(None, None, None, baseline_correct),
        detects=partial(stats.unpaired_detectable_difference, n, baseline_n, pooled),
        p_at=partial(stats.unpaired_difference_p, correct, n, baseline_correct, baseline_n),
    )


def _without_zero(low: float, high: float, is_above: bool) -> tuple[float, float]:
    """Return an interval without 0, which the test that decides has rejected."""
    return (max(low, FINEST), high) if is_above else (low, min(high, -FINEST))


def verdict_counts(wins: int | None, losses: int | None, ties: int | None, baseline_correct: int) -> dict[str, Any]:
    """Return the counts of an effect of verdicts."""
    counts = {"wins": wins, "losses": losses, "ties": ties, "baseline_correct": baseline_correct}
    return counts | {"clusters": None, "samples": 1}
