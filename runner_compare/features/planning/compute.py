"""Plans how many questions each comparison needs, and how long the additional questions take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runner_base import ConfigError, format_unknown_choice_message
from runner_base.notes import Note, note
from runner_compare.model.data import Run, Table, TableRow
from runner_compare.model.selection import parse_margins
from runner_compare.statistics import POWER, Decision, Method
from runner_compare.statistics.answer_times import estimate_answer_times
from runner_compare.statistics.planning import MIN_UNITS_PLANNED

OPTION = "--plan-questions"
KEYS = ("margin", "detect", "power")
UNPLANNED: dict[str, Note] = {  # why there is no plan for an effect of this method
    Method.sequential: note("plan_watched"),
    Method.over_seeds: note("plan_over_seeds"),
    Method.mean_flips: note("plan_means"),
}


@dataclass(frozen=True)
class QuestionPlan:
    """Number of questions that a comparison needs."""

    asked: int  # so far
    disagreement: float | None  # the share of questions so far that only one of the two solved
    needed: int | None = None  # in all
    needed_low: int | None = None  # the ends of its 95 % interval
    needed_high: int | None = None
    further: int | None = None
    further_s: float | None = None  # how long the further ones take at the row's measured speed
    reason: Note | None = None  # why there is no number


@dataclass(frozen=True)
class PlanTarget:
    """Goal of --plan-questions: a margin or a difference to detect, and the statistical power."""

    margins: dict[str, float] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    power: float = POWER


@dataclass
class TablePlans:
    """Number of questions that each run of a table needs, by run id."""

    aim: PlanTarget = PlanTarget()
    of_rows: dict[str, QuestionPlan] = field(default_factory=dict)


def parse_plan_target(arguments: Sequence[str]) -> PlanTarget:
    """Parse the arguments of --plan-questions: margin=… or detect=…, and power=…."""
    texts: dict[str, list[str]] = {key: [] for key in KEYS}
    for word in (part for argument in arguments for part in argument.split()):
        key, equals, value = word.partition("=")
        if not equals or key not in KEYS:
            raise ConfigError(
                f"{format_unknown_choice_message('key', key, KEYS)}; e.g. margin=2 power=0.8, or detect=3",
                key=OPTION,
                value=word,
                code="unknown_choice",
            )
        texts[key].append(value)
    if bool(texts["margin"]) == bool(texts["detect"]):
        raise ConfigError(
            "set either margin=POINTS (to show non-inferiority) or detect=POINTS (to detect a difference)",
            key=OPTION,
            code="conflict" if texts["margin"] else "missing",
        )
    if len(texts["power"]) > 1:
        raise ConfigError(
            "power is set twice. Set it once", key=OPTION, value=f"power={texts['power'][1]}", code="conflict"
        )
    power = POWER
    if texts["power"]:
        try:
            power = float(texts["power"][0])
        except ValueError:
            power = 0.0
        if not 0.5 <= power <= 0.99:
            raise ConfigError(
                "power must be between 0.5 and 0.99, e.g. 0.8",
                key=OPTION,
                value=f"power={texts['power'][0]}",
                code="bad_value",
            )
    return PlanTarget(
        parse_margins(texts["margin"], OPTION, "margin="),
        parse_margins(texts["detect"], OPTION, "detect="),
        power,
    )


def plan_questions(tables: Sequence[Table], target: PlanTarget) -> None:
    """Compute how many questions each comparison needs. Raises ConfigError if no comparison has
    this measure.
    """
    for table in tables:
        plans = table.get_section_data(TablePlans)
        plans.aim = target
        for row in table.candidate_rows:
            if row.effect is not None and _target_size(row.effect, target) is not None:
                plans.of_rows[row.run.run_id] = _create_question_plan(row, row.effect, target)
    if not any(table.get_section_data(TablePlans).of_rows for table in tables):
        raise ConfigError(
            f"no comparison measures {' or '.join(target.margins | target.differences)}. Select other runs",
            key=OPTION,
            code="empty",
        )


def _target_size(decision: Decision, target: PlanTarget) -> float | None:
    return (target.margins or target.differences).get(decision.measure)


def _create_question_plan(row: TableRow, decision: Decision, target: PlanTarget) -> QuestionPlan:
    size, can_plan = (
        _target_size(decision, target),
        decision.can_plan if target.margins else decision.can_plan_detection,
    )
    assert size is not None
    disagreement = _observed_disagreement(decision)
    if not can_plan:
        why = decision.unplanned or UNPLANNED.get(decision.method, note("plan_unpaired"))
        if decision.baseline_low is not None and not decision.unplanned:
            why = note("plan_too_low")
        elif target.margins and decision.counts.get("clusters") and not decision.unplanned:
            why = note("plan_few_families", least=MIN_UNITS_PLANNED)
        return QuestionPlan(decision.n, disagreement, reason=why)
    plan = (
        decision.test.plan_sample_size_for_margin
        if target.margins
        else decision.test.plan_sample_size_to_detect
    )
    between = (
        decision.test.estimate_sample_size_interval
        if target.margins
        else decision.test.estimate_detection_size_interval
    )
    needed = plan(size, decision.strictest_level, target.power)
    if needed is None:
        return QuestionPlan(decision.n, disagreement, reason=note("plan_too_many"))
    each_s = estimate_seconds_per_question(row.run)
    further = additional_questions(needed, decision.n)
    low, high = between(size, decision.strictest_level, target.power) or (None, None)
    further_s = None if each_s is None else further * each_s
    return QuestionPlan(decision.n, disagreement, needed, low, high, further, further_s)


def additional_questions(total_needed: int, num_asked: int) -> int:
    """Return how many questions a comparison needs in addition to those already answered.

    A record has both numbers unchanged. A table rounds `total_needed` up for display, so that
    the asked and the additional questions add up to it.
    """
    return max(0, total_needed - num_asked)


def _observed_disagreement(decision: Decision) -> float | None:
    wins, losses = decision.counts.get("wins"), decision.counts.get("losses")
    return (wins + losses) / decision.n if wins is not None and losses is not None and decision.n else None


def estimate_seconds_per_question(run: Run) -> float | None:
    """Return the seconds per question at the run's measured speed, or None without a measured
    speed.
    """
    times = estimate_answer_times(run.metrics)
    return None if times is None else times.seconds_per_completion * times.n / run.metrics["n"]
