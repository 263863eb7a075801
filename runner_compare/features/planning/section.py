"""--plan-questions: how many questions each comparison needs, and how long the further ones take
here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runner_base import Column, ConfigError, Use, unknown
from runner_compare.model.data import ABSENT, Run, Table, TableRow
from runner_compare.model.selection import parse_margins
from runner_compare.render.effects import quantity, unit_of
from runner_compare.render.labels import about_between, name_of, rounded_up
from runner_compare.render.quantities import ACCURACIES
from runner_compare.section import Section
from runner_compare.statistics import POWER, Decision, Method
from runner_compare.statistics.answer_times import answer_times
from runner_compare.statistics.planning import MIN_UNITS_PLANNED

OPTION = "--plan-questions"
KEYS = ("margin", "detect", "power")
UNPLANNED: dict[str, str] = {  # why there is no plan for an effect of this method
    Method.sequential: "it was compared while it ran",
    Method.over_seeds: "seeds count, too, and more questions do not show more of them",
    Method.mean_flips: "it is unknown for families of questions and for several answers to a question",
}


@dataclass(frozen=True)
class QuestionPlan:
    """How many questions a comparison needs."""

    asked: int  # so far
    disagreement: float | None  # the share of questions so far that only one of the two solved
    needed: int | None = None  # in all
    needed_low: int | None = None  # the ends of its 95 % interval
    needed_high: int | None = None
    further: int | None = None
    further_s: float | None = None  # how long the further ones take at the row's measured speed
    reason: str = ""  # why there is no number


@dataclass
class Plans:
    """The plans of a table's rows, by run id, and what they are for."""

    title: str = ""
    of_rows: dict[str, QuestionPlan] = field(default_factory=dict)


class Planning(Section):
    """How many questions each comparison needs, if that was asked for."""

    def tables(self, table: Table) -> dict[str, list[Column]]:
        plans = table.of(Plans)
        return {plans.title: plan_columns(table)} if plans.of_rows else {}

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return a row's plan."""
        plan = table.of(Plans).of_rows.get(row.run.run_id)
        return {"plan": asdict(plan) if plan else None}


@dataclass(frozen=True)
class PlanAim:
    """What the questions are to decide: a margin or a difference to detect, by measure, and with
    which power."""

    margins: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    power: float = POWER


def parse_aim(arguments: Sequence[str]) -> PlanAim:
    """Read KEY=VALUE…: margin= or detect=, and power=."""
    texts: dict[str, list[str]] = {key: [] for key in KEYS}
    for word in (part for argument in arguments for part in argument.split()):
        key, equals, value = word.partition("=")
        if not equals or key not in KEYS:
            raise ConfigError(
                f"{unknown('key', key, KEYS)}; e.g. margin=2 power=0.8, or detect=3",
                key=OPTION,
                value=word,
                code="unknown_choice",
            )
        texts[key].append(value)
    if bool(texts["margin"]) == bool(texts["detect"]):
        raise ConfigError(
            "give either margin= (as good within 2 points) or detect= (a difference of 3)",
            key=OPTION,
            code="conflict" if texts["margin"] else "missing",
        )
    if len(texts["power"]) > 1:
        raise ConfigError(
            "there is another power: give one",
            key=OPTION,
            value=f"power={texts['power'][1]}",
            code="conflict",
        )
    power = POWER
    if texts["power"]:
        try:
            power = float(texts["power"][0])
        except ValueError:
            power = 0.0
        if not 0.5 <= power <= 0.99:
            raise ConfigError(
                "must be a probability from 0.5 to 0.99 (0.8)",
                key=OPTION,
                value=f"power={texts['power'][0]}",
                code="bad_value",
            )
    return PlanAim(
        parse_margins(texts["margin"], OPTION, "margin="),
        parse_margins(texts["detect"], OPTION, "detect="),
        power,
    )


def plan_questions(tables: Sequence[Table], aim: PlanAim) -> None:
    """Plan the questions of each comparison; ConfigError if there is none of this kind."""
    for table in tables:
        plans = table.of(Plans)
        plans.title = _title(table, aim)
        for row in table.settings:
            if row.effect is not None and _size(row.effect, aim) is not None:
                plans.of_rows[row.run.run_id] = _plan(row, row.effect, aim)
    if not any(table.of(Plans).of_rows for table in tables):
        raise ConfigError(
            f"no row was compared in {' or '.join(aim.margins | aim.differences)}", key=OPTION, code="empty"
        )


def _size(decision: Decision, aim: PlanAim) -> float | None:
    return (aim.margins or aim.differences).get(decision.measure)


def _plan(row: TableRow, decision: Decision, aim: PlanAim) -> QuestionPlan:
    size, can_plan = (_size(decision, aim), decision.can_plan if aim.margins else decision.can_plan_detection)
    assert size is not None
    disagreement = _disagreement(decision)
    if not can_plan:
        why = decision.unplanned or UNPLANNED.get(decision.method, "the comparison is unpaired")
        if decision.baseline_low is not None and not decision.unplanned:
            why = "the baseline solves too few questions to lose more than the margin"
        elif aim.margins and decision.counts.get("clusters") and not decision.unplanned:
            why = f"fewer than {MIN_UNITS_PLANNED} families say too little"
        return QuestionPlan(decision.n, disagreement, reason=why)
    plan = decision.test.needs if aim.margins else decision.test.needs_to_detect
    between = decision.test.needs_between if aim.margins else decision.test.needs_to_detect_between
    needed = plan(size, decision.level, aim.power)
    if needed is None:
        return QuestionPlan(decision.n, disagreement, reason="ten million are not enough")
    each_s = seconds_per_question(row.run)
    further = further_questions(needed, decision.n)
    low, high = between(size, decision.level, aim.power) or (None, None)
    further_s = None if each_s is None else further * each_s
    return QuestionPlan(decision.n, disagreement, needed, low, high, further, further_s)


def further_questions(needed: int, asked: int) -> int:
    """Return how many of the questions that are needed in all are still to be asked.

    A record has both numbers as they are. A table gives `needed` as it shows it, rounded up: what is
    asked and what is further then add up to it.
    """
    return max(0, needed - asked)


def _disagreement(decision: Decision) -> float | None:
    wins, losses = decision.counts.get("wins"), decision.counts.get("losses")
    return (wins + losses) / decision.n if wins is not None and losses is not None and decision.n else None


def seconds_per_question(run: Run) -> float | None:
    """Return how long a question takes at the run's measured speeds; None if it has not measured
    them."""
    times = answer_times(run.metrics)
    return None if times is None else times.each_s * times.n / run.metrics["n"]


def _title(table: Table, aim: PlanAim) -> str:
    """Return what the plan is for, in words."""
    sizes = aim.margins or aim.differences
    parts = []
    for measure, size in sizes.items():
        effect = next(
            (compared for row in table.rows if (compared := row.effect) and compared.measure == measure), None
        )
        if effect is not None:
            parts.append(f"{100 * size if quantity(effect) is ACCURACIES else size:g} {unit_of(effect)}")
    if not parts:
        return ""
    what = "to be shown as good within" if aim.margins else "to detect a difference of"
    condition = "neither is better and runs" if aim.margins else "apart from it runs"
    return (
        f"questions in all {what} {' or '.join(parts)} with {100 * aim.power:g} % power, if {condition} disagree as "
        "often as so far"
    )


def plan_columns(table: Table) -> list[Column]:
    plans = table.of(Plans).of_rows
    lines = [(row, plans[row.run.run_id]) for row in table.rows if row.run.run_id in plans]
    rates = [plan.disagreement for _, plan in lines]
    return [
        Column("plan", [name_of(row, table.keys) for row, _ in lines], False, use=Use.setting),
        Column("so far", [f"{plan.asked:,}" for _, plan in lines]),
        Column("disagree", [ABSENT if rate is None else f"{100 * rate:.1f} %" for rate in rates]),
        Column(
            "needed",
            [
                plan.reason
                if plan.needed is None
                else about_between(plan.needed, (plan.needed_low, plan.needed_high))
                for _, plan in lines
            ],
            use=Use.result,
        ),
        Column(
            "further",
            [
                ABSENT
                if plan.needed is None
                else f"{further_questions(rounded_up(plan.needed), plan.asked):,}"
                for _, plan in lines
            ],
        ),
        Column("time here", [duration(plan.further_s) for _, plan in lines]),
    ]


def duration(seconds: float | None) -> str:
    """Return a duration in the largest fitting unit: 0 s, 12 s, 3.4 min, 2.1 h."""
    if seconds is None:
        return ABSENT
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 or not seconds else "<1 s"


SECTION = Planning()
