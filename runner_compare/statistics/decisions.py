"""What is decided about the effects of a table: the finding of each, and what is shown about a
margin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property

from runner_base.notes import Note, note
from runner_compare.metrics import Better, described
from runner_compare.statistics.effects import Between, Effect, Test, p_beyond
from runner_compare.statistics.margins import MarginVerdict, margin_verdict
from runner_compare.statistics.sequential import Side, level_of
from runner_compare.statistics.simultaneous import SPARED, interval_beside
from runner_compare.statistics.stats import ALPHA, holm_of_groups

RATIOS = "ratios"  # the margin of all ratios, whatever they measure
NUMBERS = tuple(field.name for field in fields(Effect))


class Finding(StrEnum):
    """The possible findings of a comparison; no test can show that two runs are equal."""

    better = "better"
    worse = "worse"
    larger = "larger"
    smaller = "smaller"
    open = "no difference shown"


@dataclass(frozen=True)
class Compared:
    """The test of two runs, and what else is known about their comparison."""

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
        """The effect of what was counted: cut-off answers are wrong."""
        return self.test.effect

    def decisive_p(self, limit: float | None = None) -> float:
        """Return the p against a limit, or against no difference: the largest one of whatever was
        cut off could say."""
        p = _p_against(self.test, limit)
        if self.ends is None:
            return p
        value = self.effect.neutral if limit is None else limit
        low, high = self.ends
        if low.effect.value > value:
            return max(p, _p_against(low, limit))
        return max(p, _p_against(high, limit)) if high.effect.value < value else 1.0

    def side_by_bets(self, value: float) -> Side:
        """Return on which side of a value its bets see the truth, whatever the answers that were
        cut off would be."""
        if self.ends is None:
            return self.test.side_of(value)
        at_worst, at_best = (end.side_of(value) for end in self.ends)
        if at_worst is Side.better:
            return at_worst
        return at_best if at_best is Side.worse else Side.open


@dataclass(frozen=True, kw_only=True)
class Decision(Effect):
    """An effect, and what is decided about it among the comparisons of its table."""

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
    def hinges_on_cut_off(self) -> bool:
        """Whether something would be decided if what was cut off were known to be wrong, and is
        not."""
        counted = self.as_counted
        return counted is not None and (counted.finding, counted.verdict) != (self.finding, self.verdict)

    @property
    def is_open(self) -> bool:
        """Whether neither a difference nor anything about a margin is shown."""
        return self.finding is Finding.open and self.verdict in (None, MarginVerdict.undecided)

    @property
    def at_margin(self) -> float | None:
        """The value from which on a row is as good within the margin; None without a margin."""
        return None if self.margin is None else _limit(self, self.margin)

    @cached_property
    def simultaneous(self) -> tuple[float, float]:
        """The interval that agrees with what is decided.

        With those of the other comparisons it contains all true values in 95 %. Where answers were
        cut off, it is around both ends.
        """
        decided_itself = self.early_stop_comparisons is not None and self.ends is None
        if not self.is_tested or decided_itself:
            return self.low, self.high
        tests = [self.test, *(end.test for end in self.ends or ())]
        lows, highs = zip(*map(self._at_its_level, tests), strict=True)
        excluded = self.finding is not Finding.open
        points = [(self.neutral, excluded)]
        if self.at_margin is not None:
            points.append((self.at_margin, self.verdict is not MarginVerdict.undecided))
        return interval_beside((min(lows), max(highs)), self.value, points)

    def _at_its_level(self, test: Test) -> tuple[float, float]:
        is_alone = self.early_stop_comparisons is not None or self.comparisons == 1
        if is_alone:
            return test.effect.low, test.effect.high
        is_decided = self.finding is not Finding.open
        return test.interval_at(self.level / SPARED if is_decided else self.level)

    @property
    def simultaneous_low(self) -> float:
        """The lower end of that interval."""
        return self.simultaneous[0]

    @property
    def simultaneous_high(self) -> float:
        """The upper end of that interval."""
        return self.simultaneous[1]

    @property
    def level(self) -> float:
        """The strictest level that Holm asks for: what is detected at it is detected at any
        rank."""
        return ALPHA / self.comparisons

    @cached_property
    def detectable(self) -> float | None:
        """The smallest true difference that is detected; None if none is, or if that is not
        known."""
        return self.test.detects(self.level)

    @cached_property
    def detectable_at_worst(self) -> float | None:
        """The same where a few questions or families have all of the difference."""
        return self.test.detects_at_worst(self.level)

    @property
    def can_plan(self) -> bool:
        """Whether it is known how many questions, or runs a side, would decide about a margin."""
        return self.test.can_plan and not self.unplanned and self.baseline_low is None

    @property
    def can_plan_detection(self) -> bool:
        """Whether it is known how many questions would detect a difference."""
        return self.test.can_plan_detection and not self.unplanned

    @cached_property
    def needed(self) -> int | None:
        """The questions, or the runs a side, that would decide about the margin if neither run is
        better."""
        if self.margin is None or not self.is_open or not self.can_plan:
            return None
        return self.test.needs(self.margin, self.level)

    @cached_property
    def needed_between(self) -> Between | None:
        """The 95 % interval of `needed`; None if it is unknown."""
        if self.needed is None or self.margin is None:
            return None
        return self.test.needs_between(self.margin, self.level)

    def noting(self, *remarks: Note | None) -> Decision:
        """Return it with further remarks."""
        return replace(self, remarks=(*self.remarks, *filter(None, remarks)))


def judge(
    comparisons: Iterable[Compared | Test], margins: Mapping[str, float] | None = None, metrics: int = 1
) -> list[Decision]:
    """Decide what each comparison of a table shows, with one error of 5 % for each measure (by Holm
    and Shaffer).

    A run that was compared while it ran has decided at its own share of the 5 %: its verdict
    stands, whatever else the table has. `margins`: for a measure, also decide which differences are
    above minus its margin, or below. A true difference is at most one of 0 and minus the margin, so
    findings and verdicts share the error of a comparison. Where answers were cut off, only what
    both ends show is decided. So many `metrics` of one score share the 5 %.
    """
    margins = margins or {}
    of_table = [
        comparison if isinstance(comparison, Compared) else Compared(comparison) for comparison in comparisons
    ]
    decisions = _decide(of_table, margins, metrics)
    if not any(compared.ends for compared in of_table):
        return decisions
    counted = _decide([replace(compared, ends=None) for compared in of_table], margins, metrics)
    at_worst, at_best = (
        _decide(
            [Compared(compared.ends[end] if compared.ends else compared.test) for compared in of_table],
            margins,
            metrics,
        )
        for end in (0, 1)
    )
    return [
        _with_ends(*versions, has_ends=compared.ends is not None)
        for compared, *versions in zip(of_table, decisions, counted, at_worst, at_best, strict=True)
    ]


def _with_ends(
    decision: Decision, counted: Decision, worst: Decision, best: Decision, *, has_ends: bool
) -> Decision:
    """Return a decision of a table in which answers were cut off, beside what each version of them
    would decide."""
    whole = replace(decision, as_counted=counted, ends=(worst, best) if has_ends else None)
    return (
        replace(whole, unplanned=whole.unplanned or note("cut_off_decides"))
        if whole.hinges_on_cut_off
        else whole
    )


def _decide(of_table: Sequence[Compared], margins: Mapping[str, float], metrics: int) -> list[Decision]:
    """Decide what each comparison shows, by the p of the worse of its ends."""
    families: dict[str, list[int]] = {}
    decided: dict[int, Decision] = {}
    for number, compared in enumerate(of_table):
        measure = _measure(compared.effect)
        if compared.effect.early_stop_comparisons is None:
            families.setdefault(measure, []).append(number)
        else:
            decided[number] = _of_bets(compared, compared.effect.early_stop_comparisons, margins.get(measure))
    for family in families.values():
        margin = _margin_of(of_table[family[0]].effect, margins)
        groups = [_ps(of_table[number], margin) for number in family]
        for number, ps in zip(family, holm_of_groups(groups, metrics), strict=True):
            decided[number] = _of_family(of_table[number], ps, len(family) * metrics, margin)
    return [decided[number] for number in range(len(of_table))]


def _measure(effect: Effect) -> str:
    return effect.measure.partition("/")[0]


def _margin_of(effect: Effect, margins: Mapping[str, float]) -> float | None:
    return margins.get(RATIOS if effect.is_ratio else _measure(effect))


def _ps(compared: Compared, margin: float | None) -> list[float]:
    """Return the p against no difference and, if there is a margin, that against the margin."""
    if margin is None or not compared.effect.is_tested:
        return [compared.decisive_p()]
    return [compared.decisive_p(), compared.decisive_p(_limit(compared.effect, margin))]


def _of_family(compared: Compared, ps: Sequence[float], comparisons: int, margin: float | None) -> Decision:
    """Decide by Holm's p against no difference, and by that against the margin if there is one."""
    p_holm, *p_margin = ps
    finding = _finding(compared.effect, p_holm)
    verdict = None
    if margin is not None and (p_margin or compared.effect.is_ratio):
        verdict = _verdict(compared.effect, finding, margin, *p_margin)
        verdict = _if_shown(verdict, compared, margin)
    return _decision(compared, p_holm, comparisons, finding, margin if verdict is not None else None, verdict)


def _finding(effect: Effect, p_holm: float) -> Finding:
    if p_holm >= ALPHA or effect.value == effect.neutral:
        return Finding.open
    is_neutral = effect.is_ratio or effect.better is Better.neither
    up, down = (Finding.larger, Finding.smaller) if is_neutral else (Finding.better, Finding.worse)
    if effect.better is Better.lower:
        up, down = down, up
    return up if effect.value > effect.neutral else down


def _verdict(effect: Effect, finding: Finding, margin: float, p_holm: float = 1.0) -> MarginVerdict:
    """Decide whether an effect is within the margin; a ratio that no test decides about is
    undecided."""
    sign = _better_sign(effect)
    worse = Finding.worse
    if effect.is_ratio:
        worse = Finding.smaller if sign > 0 else Finding.larger
    if finding not in (Finding.open, worse):
        return MarginVerdict.better
    if p_holm >= ALPHA:
        return MarginVerdict.undecided
    if sign * (effect.value - _limit(effect, margin)) < 0:
        return MarginVerdict.worse_by_more
    return MarginVerdict.worse_but_within if finding is worse else MarginVerdict.as_good


def _of_bets(compared: Compared, comparisons: int, margin: float | None) -> Decision:
    """Take over what the bets of a run have decided at its share: the very claims that it would
    stop at."""
    findings = {Side.better: Finding.better, Side.worse: Finding.worse, Side.open: Finding.open}
    p_holm, side = min(1.0, compared.decisive_p() * comparisons), compared.side_by_bets(0.0)
    verdict = None
    if margin is not None:
        verdict = margin_verdict(side, compared.side_by_bets(-margin))
        verdict = _if_shown(verdict, compared, margin)
    return _decision(compared, p_holm, comparisons, findings[side], margin, verdict)


def _if_shown(verdict: MarginVerdict, compared: Compared, margin: float) -> MarginVerdict:
    """Return a verdict about a margin, or `undecided` if the baseline had nothing to lose."""
    is_within = verdict in (MarginVerdict.as_good, MarginVerdict.worse_but_within)
    is_empty = compared.no_evidence is not None or _is_too_low(compared, margin)
    return MarginVerdict.undecided if is_within and is_empty else verdict


def _is_too_low(compared: Compared, margin: float) -> bool:
    """Whether the baseline may solve so few questions that it cannot lose more than the margin."""
    return compared.baseline_low is not None and compared.baseline_low <= margin


def _decision(
    compared: Compared,
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
        baseline_low=compared.baseline_low if margin is not None and _is_too_low(compared, margin) else None,
        cut_off=compared.cut_off,
    )


def undecided(test: Test) -> Decision:
    """Return an effect about which nothing is decided, such as that of a repeat of the baseline."""
    return _decision(Compared(test), 1.0, 1, Finding.open, None, None)


def most_wrong(decisions: Sequence[Decision]) -> float:
    """Return the share of tables with any wrong finding, at most: 5 % for Holm's family, and each
    share of a run."""
    fixed = [
        decision.early_stop_comparisons
        for decision in decisions
        if decision.early_stop_comparisons is not None
    ]
    of_family = ALPHA if len(fixed) < len(decisions) else 0.0
    return of_family + sum(level_of(comparisons) for comparisons in fixed)


def _p_against(test: Test, limit: float | None) -> float:
    return test.effect.p if limit is None else p_beyond(test, limit)


def _better_sign(effect: Effect) -> int:
    """Return the sign of an improvement: of a difference 1, of a ratio that of its measure."""
    return described(effect.measure).better.value if effect.is_ratio else 1


def _limit(effect: Effect, margin: float) -> float:
    """Return the value at the margin: minus it, or where the baseline is better by a factor of 1 +
    margin."""
    return float((1 + margin) ** -_better_sign(effect)) if effect.is_ratio else -margin
