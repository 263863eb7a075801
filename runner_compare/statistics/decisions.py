"""Decides which differences in a table are significant and which are within the margin, at one error rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property

from runner_base.notes import Note, note
from runner_compare.metrics import BetterDirection, find_metric
from runner_compare.statistics.effects import Effect, SampleSizeRange, Test, compute_margin_test_p_value
from runner_compare.statistics.margins import MarginVerdict, decide_sequential_verdict
from runner_compare.statistics.sequential import Side, comparison_level
from runner_compare.statistics.simultaneous import SPARED, align_interval_with_decision
from runner_compare.statistics.stats import ALPHA, adjust_grouped_p_values

RATIOS = "ratios"  # the margin of all ratios, whatever they measure
NUMBERS = tuple(field.name for field in fields(Effect))


class Finding(StrEnum):
    """Possible findings of a comparison. No test can show that two runs are equal."""

    better = "better"
    worse = "worse"
    larger = "larger"
    smaller = "smaller"
    open = "no difference shown"


@dataclass(frozen=True)
class RunComparison:
    """Statistical test of two runs, repeated for the best and the worst outcome of cut-off answers."""

    test: Test
    cut_off: tuple[int, int] = (0, 0)  # answers of this run and of the baseline that were cut off
    # if any: with ours wrong and the baseline's right, and the reverse
    ends: tuple[Test, Test] | None = None
    remarks: tuple[Note, ...] = ()  # what else a reader has to know
    unplanned: Note | None = None  # why more questions of this kind would not decide
    tells_more: Note | None = None  # which questions would tell more, if all verdicts are the same
    no_evidence: Note | None = None  # why both sides show nothing, and what would show more
    # the lower end of the baseline's accuracy: nothing larger can be lost
    baseline_low: float | None = None

    @property
    def effect(self) -> Effect:
        """Difference between the runs, with cut-off answers counted as wrong."""
        return self.test.effect

    def compute_worst_case_p_value(self, null_value: float | None = None) -> float:
        """Return the largest p-value over all possible outcomes of cut-off answers.

        The default null value is no difference.
        """
        p = _p_value_against(self.test, null_value)
        if self.ends is None:
            return p
        value = self.effect.neutral_value if null_value is None else null_value
        low, high = self.ends
        if low.effect.value > value:
            return max(p, _p_value_against(low, null_value))
        return max(p, _p_value_against(high, null_value)) if high.effect.value < value else 1.0

    def decide_side_of_null(self, null_value: float) -> Side:
        """Return whether the true difference is significantly above or below a null value.

        The result holds for any outcome of cut-off answers.
        """
        if self.ends is None:
            return self.test.decide_side_of_null(null_value)
        at_worst, at_best = (end.decide_side_of_null(null_value) for end in self.ends)
        if at_worst is Side.better:
            return at_worst
        return at_best if at_best is Side.worse else Side.open


@dataclass(frozen=True, kw_only=True)
class Decision(Effect):
    """Difference between two runs, with the decisions whether it is significant and within the margin.

    Both are corrected for the number of comparisons in the table.
    """

    test: Test
    p_holm: float
    comparisons: int  # the number of comparisons that p_holm is adjusted for
    finding: Finding
    margin: float | None = None
    verdict: MarginVerdict | None = None  # about the margin; None without a margin
    remarks: tuple[Note, ...] = ()  # what else a reader has to know
    unplanned: Note | None = None  # why more questions of this kind would not decide
    tells_more: Note | None = None  # which questions would tell more, if all verdicts are the same
    no_evidence: Note | None = None  # why both sides show nothing, and what would show more
    baseline_low: float | None = None  # of its accuracy, if the margin may be larger than that
    cut_off: tuple[int, int] = (0, 0)  # answers of this run and of the baseline that were cut off
    # what both ends of the cut-off answers show, if any were
    ends: tuple[Decision, Decision] | None = None
    # if any row has ends: what would be decided if all cut-off answers were wrong
    as_counted: Decision | None = None

    @property
    def depends_on_cut_off_answers(self) -> bool:
        """Whether the decision would differ if all cut-off answers counted as wrong."""
        counted = self.as_counted
        return counted is not None and (counted.finding, counted.verdict) != (self.finding, self.verdict)

    @property
    def is_undecided(self) -> bool:
        """Whether the comparison shows neither a significant difference nor a verdict on the margin."""
        return self.finding is Finding.open and self.verdict in (None, MarginVerdict.undecided)

    @property
    def margin_value(self) -> float | None:
        return None if self.margin is None else _compute_null_value_at_margin(self, self.margin)

    @cached_property
    def simultaneous_interval(self) -> tuple[float, float]:
        """Confidence interval, adjusted for the other comparisons of the table.

        The intervals of all comparisons together contain all true values with 95 % probability. If
        answers were cut off, the interval covers both extreme verdicts.
        """
        if not self.is_tested:
            return self.low, self.high
        tests = [self.test, *(end.test for end in self.ends or ())]
        lows, highs = zip(*map(self._compute_interval_at_decision_level, tests), strict=True)
        excluded = self.finding is not Finding.open
        points = [(self.neutral_value, excluded)]
        if self.margin_value is not None:
            points.append((self.margin_value, self.verdict is not MarginVerdict.undecided))
        return align_interval_with_decision((min(lows), max(highs)), self.value, points)

    @property
    def simultaneous_interval_error_rate(self) -> float:
        """Error rate of the simultaneous interval: the part of 5 % that this comparison has."""
        if self.early_stop_comparisons is not None or self.comparisons == 1:
            return ALPHA
        return self.strictest_level if self.finding is Finding.open else self.strictest_level / SPARED

    def _compute_interval_at_decision_level(self, test: Test) -> tuple[float, float]:
        if self.simultaneous_interval_error_rate == ALPHA:
            return test.effect.low, test.effect.high
        return test.compute_interval_at_level(self.simultaneous_interval_error_rate)

    @property
    def simultaneous_low(self) -> float:
        """Lower end of the simultaneous interval."""
        return self.simultaneous_interval[0]

    @property
    def simultaneous_high(self) -> float:
        """Upper end of the simultaneous interval."""
        return self.simultaneous_interval[1]

    @property
    def strictest_level(self) -> float:
        """Strictest significance level in Holm's procedure.

        An effect that is significant at this level is significant at any rank.
        """
        return ALPHA / self.comparisons

    @cached_property
    def detectable(self) -> float | None:
        """Smallest true difference that the test detects; None if unknown."""
        return self.test.detectable_difference(self.strictest_level)

    @cached_property
    def detectable_at_worst(self) -> float | None:
        """Smallest detectable difference if a few questions or clusters cause all of it."""
        return self.test.find_worst_case_detectable(self.strictest_level)

    @property
    def can_plan(self) -> bool:
        return self.test.can_plan and not self.unplanned and self.baseline_low is None

    @property
    def can_plan_detection(self) -> bool:
        return self.test.can_plan_detection and not self.unplanned

    @cached_property
    def needed(self) -> int | None:
        """Sample size needed to show that a run is within the margin if both runs are equally good.

        Counts questions, or runs per job for repeated measurements.
        """
        if self.margin is None or not self.is_undecided or not self.can_plan:
            return None
        return self.test.plan_sample_size_for_margin(self.margin, self.strictest_level)

    @cached_property
    def needed_interval(self) -> SampleSizeRange | None:
        if self.needed is None or self.margin is None:
            return None
        return self.test.estimate_sample_size_interval(self.margin, self.strictest_level)

    def with_notes(self, *notes: Note | None) -> Decision:
        return replace(self, remarks=(*self.remarks, *filter(None, notes)))


def decide_comparisons_with_holm(
    comparisons: Iterable[RunComparison | Test], margins: Mapping[str, float] | None = None, metrics: int = 1
) -> list[Decision]:
    """Decide all comparisons of a table at a family-wise error rate of 5 % per measure, such as accuracy.

    The method is Holm's procedure with Shaffer's improvement. A run with early stopping has used
    its own part of the 5 %: its verdict is final, whatever else the table has. With `margins`,
    differences above or below minus a measure's margin are decided too. A true difference is at
    most one of 0 and minus the margin, so findings and verdicts share the error of a comparison.
    If answers were cut off, only what both extremes show is decided. `metrics` is the number of
    metrics of one score that share the 5 %.
    """
    margins = margins or {}
    of_table = [
        comparison if isinstance(comparison, RunComparison) else RunComparison(comparison)
        for comparison in comparisons
    ]
    decisions = _decide_comparisons_per_measure(of_table, margins, metrics)
    if not any(compared.ends for compared in of_table):
        return decisions
    counted = _decide_comparisons_per_measure(
        [replace(compared, ends=None) for compared in of_table], margins, metrics
    )
    at_worst, at_best = (
        _decide_comparisons_per_measure(
            [RunComparison(compared.ends[end] if compared.ends else compared.test) for compared in of_table],
            margins,
            metrics,
        )
        for end in (0, 1)
    )
    return [
        _attach_cut_off_bounds(*versions, has_cut_off=compared.ends is not None)
        for compared, *versions in zip(of_table, decisions, counted, at_worst, at_best, strict=True)
    ]


def _attach_cut_off_bounds(
    decision: Decision, as_counted: Decision, at_worst: Decision, at_best: Decision, *, has_cut_off: bool
) -> Decision:
    whole = replace(decision, as_counted=as_counted, ends=(at_worst, at_best) if has_cut_off else None)
    return (
        replace(whole, unplanned=whole.unplanned or note("cut_off_decides"))
        if whole.depends_on_cut_off_answers
        else whole
    )


def _decide_comparisons_per_measure(
    comparisons: Sequence[RunComparison], margins: Mapping[str, float], metrics: int
) -> list[Decision]:
    """Decide comparisons with one Holm correction per measure. Runs with early stopping have a
    separate test.
    """
    families: dict[str, list[int]] = {}
    decided: dict[int, Decision] = {}
    for number, compared in enumerate(comparisons):
        measure = _base_measure(compared.effect)
        if compared.effect.early_stop_comparisons is None:
            families.setdefault(measure, []).append(number)
        else:
            decided[number] = _decide_by_always_valid_test(
                compared, compared.effect.early_stop_comparisons, margins.get(measure)
            )
    for family in families.values():
        margin = _find_margin(comparisons[family[0]].effect, margins)
        groups = [_compute_difference_and_margin_ps(comparisons[number], margin) for number in family]
        for number, ps in zip(family, adjust_grouped_p_values(groups, metrics), strict=True):
            decided[number] = _decide_by_holm(comparisons[number], ps, len(family) * metrics, margin)
    return [decided[number] for number in range(len(comparisons))]


def _base_measure(effect: Effect) -> str:
    return effect.measure.partition("/")[0]


def _find_margin(effect: Effect, margins: Mapping[str, float]) -> float | None:
    return margins.get(RATIOS if effect.is_ratio else _base_measure(effect))


def _compute_difference_and_margin_ps(compared: RunComparison, margin: float | None) -> list[float]:
    if margin is None or not compared.effect.is_tested:
        return [compared.compute_worst_case_p_value()]
    return [
        compared.compute_worst_case_p_value(),
        compared.compute_worst_case_p_value(_compute_null_value_at_margin(compared.effect, margin)),
    ]


def _decide_by_holm(
    compared: RunComparison, adjusted_ps: Sequence[float], comparisons: int, margin: float | None
) -> Decision:
    p_holm, *p_margin = adjusted_ps
    finding = _find_effect_direction(compared.effect, p_holm)
    verdict = None
    if margin is not None and (p_margin or compared.effect.is_ratio):
        verdict = _decide_margin_verdict(compared.effect, finding, margin, *p_margin)
        verdict = _reject_verdict_without_evidence(verdict, compared, margin)
    return _create_decision(
        compared, p_holm, comparisons, finding, margin if verdict is not None else None, verdict
    )


def _find_effect_direction(effect: Effect, p_holm: float) -> Finding:
    if p_holm >= ALPHA or effect.value == effect.neutral_value:
        return Finding.open
    is_neutral = effect.is_ratio or effect.better is BetterDirection.neither
    up, down = (Finding.larger, Finding.smaller) if is_neutral else (Finding.better, Finding.worse)
    if effect.better is BetterDirection.lower:
        up, down = down, up
    return up if effect.value > effect.neutral_value else down


def _decide_margin_verdict(
    effect: Effect, finding: Finding, margin: float, p_holm: float = 1.0
) -> MarginVerdict:
    """Decide whether a difference is within the margin. A ratio without a test is undecided."""
    sign = _better_sign(effect)
    worse = Finding.worse
    if effect.is_ratio:
        worse = Finding.smaller if sign > 0 else Finding.larger
    if finding not in (Finding.open, worse):
        return MarginVerdict.better
    if p_holm >= ALPHA:
        return MarginVerdict.undecided
    if sign * (effect.value - _compute_null_value_at_margin(effect, margin)) < 0:
        return MarginVerdict.worse_by_more
    return MarginVerdict.worse_but_within if finding is worse else MarginVerdict.as_good


def _decide_by_always_valid_test(compared: RunComparison, comparisons: int, margin: float | None) -> Decision:
    findings = {Side.better: Finding.better, Side.worse: Finding.worse, Side.open: Finding.open}
    p_holm, side = (
        min(1.0, compared.compute_worst_case_p_value() * comparisons),
        compared.decide_side_of_null(0.0),
    )
    verdict = None
    if margin is not None:
        verdict = decide_sequential_verdict(side, compared.decide_side_of_null(-margin))
        verdict = _reject_verdict_without_evidence(verdict, compared, margin)
    return _create_decision(compared, p_holm, comparisons, findings[side], margin, verdict)


def _reject_verdict_without_evidence(
    verdict: MarginVerdict, compared: RunComparison, margin: float
) -> MarginVerdict:
    """Change the verdict `as good` to `undecided` if the baseline's accuracy may be below the margin."""
    is_within = verdict in (MarginVerdict.as_good, MarginVerdict.worse_but_within)
    is_empty = compared.no_evidence is not None or _is_baseline_too_low(compared, margin)
    return MarginVerdict.undecided if is_within and is_empty else verdict


def _is_baseline_too_low(compared: RunComparison, margin: float) -> bool:
    return compared.baseline_low is not None and compared.baseline_low <= margin


def _create_decision(
    compared: RunComparison,
    p_holm: float,
    comparisons: int,
    finding: Finding,
    margin: float | None,
    verdict: MarginVerdict | None,
) -> Decision:
    return Decision(
        **{name: getattr(compared.effect, name) for name in NUMBERS},
        test=compared.test,
        p_holm=p_holm,
        comparisons=comparisons,
        finding=finding,
        margin=margin,
        verdict=verdict,
        remarks=compared.remarks,
        unplanned=compared.unplanned,
        tells_more=compared.tells_more,
        no_evidence=compared.no_evidence,
        baseline_low=compared.baseline_low
        if margin is not None and _is_baseline_too_low(compared, margin)
        else None,
        cut_off=compared.cut_off,
    )


def create_undecided_decision(test: Test) -> Decision:
    return _create_decision(RunComparison(test), 1.0, 1, Finding.open, None, None)


def bound_wrong_finding_probability(decisions: Sequence[Decision]) -> float:
    """Return an upper bound on the probability that any finding of a table is wrong.

    It is 5 % for Holm's family, plus the error part of each run compared during execution.
    """
    fixed = [
        decision.early_stop_comparisons
        for decision in decisions
        if decision.early_stop_comparisons is not None
    ]
    of_family = ALPHA if len(fixed) < len(decisions) else 0.0
    return of_family + sum(comparison_level(comparisons) for comparisons in fixed)


def _p_value_against(test: Test, null_value: float | None) -> float:
    return test.effect.p if null_value is None else compute_margin_test_p_value(test, null_value)


def _better_sign(effect: Effect) -> int:
    """Return the sign of an improvement.

    For ratios, the sign depends on the measure's better direction.
    """
    return find_metric(effect.measure).better.value if effect.is_ratio else 1


def _compute_null_value_at_margin(effect: Effect, margin: float) -> float:
    return float((1 + margin) ** -_better_sign(effect)) if effect.is_ratio else -margin
