"""Data classes of a release gate: policy, checks and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runner_base.notes import Note
from runner_compare.features.gates.section import RequirementTerm
from runner_compare.features.noise_floor.compute import NoiseFloor
from runner_compare.statistics import Decision


class GateVerdict(StrEnum):
    """Verdict on a check, a candidate or all candidates."""

    go = "GO"
    ask = "ASK"
    unpaired = "ERROR"  # its answers cannot be compared with the baseline's
    no_go = "NO-GO"

    @property
    def exit_code(self) -> int:
        return {"GO": 0, "NO-GO": 1, "ERROR": 2, "ASK": 3}[self.value]


WORST_FIRST = [*GateVerdict][::-1]


POOLED = "all tasks"  # the panel of a pooled rule's check


class Tier(StrEnum):
    """Weight of a rule. Only rules of the tier `must` decide the verdict."""

    must = "must"
    should = "should"


@dataclass(frozen=True)
class Rule:
    """Requirements on the results of one task, or of all tasks."""

    margins: Mapping[str, float] = field(default_factory=dict)  # measure → the loss that is acceptable
    limits: tuple[RequirementTerm, ...] = ()  # --min and --max
    tier: Tier = Tier.must
    task: str = ""  # empty: all tasks
    margin_texts: tuple[str, ...] = ()  # the margins as the user wrote them
    is_pooled: bool = False  # the margin applies to all questions of all tasks together


@dataclass(frozen=True)
class Policy:
    """Rules that every candidate must meet, and the error rates of their tests."""

    rules: tuple[Rule, ...] = ()
    expected: tuple[str, ...] = ()  # labels of candidates that must have a result
    is_each: bool = False  # whether each candidate has its own error of 5 %
    night: int | None = None  # of how many nights against the baseline this is; None: no history

    @property
    def has_margins(self) -> bool:
        return any(rule.margins for rule in self.rules)


@dataclass(frozen=True)
class Check:
    """Result of checking one requirement on one candidate."""

    verdict: GateVerdict
    reason: Note
    panel: str = ""  # the split or data set, if there are several
    decision: Decision | None = None  # of a margin
    further_questions: int | None = None  # that would probably decide
    further_s: float | None = None  # the time that they take at the candidate's speed
    run_id: str = ""  # of the candidate's run; empty: it has none
    tier: Tier = Tier.must
    is_detail: bool = False  # of one task of a pooled rule: counts only if it shows a loss

    @property
    def is_decisive(self) -> bool:
        """Whether the check counts for the candidate's verdict."""
        return self.tier is Tier.must and not (self.is_detail and self.verdict is GateVerdict.ask)


@dataclass(frozen=True)
class CandidateVerdict:
    """Verdict on one candidate: the worst verdict of its checks in the tier `must`."""

    name: str
    job_ids: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> GateVerdict:
        return find_worst_verdict([check.verdict for check in self.checks if check.is_decisive])


@dataclass(frozen=True)
class GateReport:
    """Verdicts on all candidates, in display order."""

    baseline: str
    num_questions: int
    policy: Policy
    candidates: tuple[CandidateVerdict, ...]
    noise_floors: tuple[NoiseFloor, ...] = ()  # of baselines that were run at least twice
    baseline_setting: str = ""  # the baseline's config values and its file name

    @property
    def verdict(self) -> GateVerdict:
        return find_worst_verdict([candidate.verdict for candidate in self.candidates])

    @property
    def night(self) -> int | None:
        return self.policy.night

    @property
    def exit_code(self) -> int:
        return self.verdict.exit_code


def list_run_verdicts(report: GateReport) -> dict[str, tuple[GateVerdict, dict[str, float]]]:
    """Return the verdict on each run and its difference in accuracy, for logging to MLflow."""
    checks: dict[str, list[Check]] = {}
    for candidate in report.candidates:
        pooled = [check for check in candidate.checks if not check.run_id and check.decision is not None]
        for check in candidate.checks:
            if check.run_id and check.tier is Tier.must:
                checks.setdefault(check.run_id, [*pooled]).append(check)
    return {
        run_id: (
            find_worst_verdict([check.verdict for check in found if check.is_decisive]),
            _get_accuracy_difference_metrics(found),
        )
        for run_id, found in checks.items()
    }


def _get_accuracy_difference_metrics(checks: list[Check]) -> dict[str, float]:
    of_run = (check for check in checks if check.run_id and check.decision)
    check = next((check for check in of_run if check.decision and check.decision.measure == "accuracy"), None)
    if check is None or check.decision is None:
        return {}
    decision = check.decision
    return {
        "delta_points": 100 * decision.value,
        "delta_low": 100 * decision.simultaneous_low,
        "delta_high": 100 * decision.simultaneous_high,
        "further_questions": float(check.further_questions or 0),  # 0: none are needed, or nobody can say
    }


def find_worst_verdict(verdicts: list[GateVerdict]) -> GateVerdict:
    """Return the worst verdict. The order is NO-GO, ERROR, ASK, GO."""
    return min(verdicts, key=WORST_FIRST.index, default=GateVerdict.go)


def to_dict(report: GateReport) -> dict[str, Any]:
    """Return the report as JSON data."""
    return {
        "verdict": report.verdict.value,
        "exit_code": report.exit_code,
        "baseline": report.baseline,
        "questions": report.num_questions,
        "error": "each" if report.policy.is_each else "shared",
        "night": report.night,
        "noise_floors": [floor.to_dict() for floor in report.noise_floors],
        "candidates": [
            {
                "name": candidate.name,
                "verdict": candidate.verdict.value,
                "job_ids": [*candidate.job_ids],
                "checks": [_check_to_dict(check) for check in candidate.checks],
            }
            for candidate in report.candidates
        ],
    }


def _check_to_dict(check: Check) -> dict[str, Any]:
    decision = check.decision
    return {
        "verdict": check.verdict.value,
        "tier": check.tier.value,
        "decisive": check.is_decisive,
        "reason": check.reason.code,
        "panel": check.panel,
        "measure": None if decision is None else decision.measure,
        "value": None if decision is None else decision.value,
        "low": None if decision is None else decision.simultaneous_low,
        "high": None if decision is None else decision.simultaneous_high,
        "margin": None if decision is None else decision.margin,
        "further_questions": check.further_questions,
        "further_s": check.further_s,
    }
