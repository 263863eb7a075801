"""Settings that were asked the same questions at several budgets of thinking, compared at equal
tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runner_base import Picture
from runner_compare.features.budgets.pictures import budget_pictures
from runner_compare.features.budgets.settings import Setting, settings_of
from runner_compare.features.token_costs.section import estimate_record
from runner_compare.model.data import NotPaired, Table, TableRow
from runner_compare.model.outcomes import Costs
from runner_compare.reader import Reader
from runner_compare.render.effects import p_value
from runner_compare.render.labels import is_its_own_name
from runner_compare.render.quantities import points
from runner_compare.section import Section
from runner_compare.statistics.equal_tokens import (
    MIN_QUESTIONS,
    Curve,
    CurvesCompared,
    EqualTokens,
    at_equal_tokens,
    judge_equal_tokens,
)
from runner_compare.statistics.token_costs import Estimate


@dataclass
class EqualTokensOfTable:
    """The comparisons of a table's settings at equal tokens."""

    compared: list[CurvesCompared] = field(default_factory=list)


class Budgets(Section):
    """Settings with several budgets of thinking."""

    def add(self, table: Table, reader: Reader) -> None:
        """Compare the settings at equal tokens."""
        add_equal_tokens(table, reader)

    def sentences(self, table: Table) -> list[str]:
        """Return the findings in words."""
        return [compared.sentence for compared in table.of(EqualTokensOfTable).compared]

    def record(self, table: Table) -> dict[str, Any]:
        """Return the comparisons as plain data."""
        records = [equal_tokens_record(compared) for compared in table.of(EqualTokensOfTable).compared]
        return {"equal_tokens": records} if records else {}

    def figures(self, table: Table) -> list[Picture]:
        """Return the picture of accuracy over the budgets."""
        return budget_pictures(table)


def add_equal_tokens(table: Table, reader: Reader) -> None:
    """Compare each setting that has several budgets with that of its baselines, and word the
    findings."""
    settings = settings_of(table)
    of_row = {row.run.run_id: setting for setting in settings for row in setting.rows}
    costs: dict[str, Costs | str] = {}
    sides: list[tuple[Setting, Setting]] = []
    compared = table.of(EqualTokensOfTable).compared
    for setting in settings:
        baselines = [row.baseline for row in setting.rows if row.baseline is not None]
        base = of_row.get(baselines[0].run.run_id) if baselines else None
        if (
            base is not None
            and base is not setting
            and all(of_row.get(row.run.run_id) is base for row in baselines)
        ):
            sides.append((setting, base))
            compared.append(_compare(setting, base, costs, reader))
    judge_equal_tokens([curves.result for curves in compared if curves.result])
    for curves, (own_setting, base_setting) in zip(compared, sides, strict=True):
        curves.sentence = _sentence(curves, own_setting, base_setting)


def _compare(
    setting: Setting, base_setting: Setting, costs: dict[str, Costs | str], reader: Reader
) -> CurvesCompared:
    """Compare two settings on the questions that all of their jobs have answered."""
    compared = CurvesCompared(setting.config, base_setting.config, setting.budgets, None)
    of_rows: list[Costs] = []
    for row in (*setting.rows, *base_setting.rows):
        read = _costs_of(row, costs, reader)
        if isinstance(read, str):
            compared.note = read
            return compared
        of_rows.append(read)
    answered = [{question for question, cost in of_row.items() if not cost.failed} for of_row in of_rows]
    shared = sorted(set.intersection(*answered))
    curves = [
        Curve(
            [[of_row[question].right for question in shared] for of_row in side],
            [[of_row[question].prompt + of_row[question].new for question in shared] for of_row in side],
        )
        for side in (of_rows[: len(setting.rows)], of_rows[len(setting.rows) :])
    ]
    families = [next((of_row[question].cluster for of_row in of_rows), None) for question in shared]
    clusters = None if None in families else families
    count, what = (len(set(families)), "families of questions") if clusters else (len(shared), "questions")
    if count < MIN_QUESTIONS:
        compared.note = f"too few {what} that all budgets share: {count}, at least {MIN_QUESTIONS}"
        return compared
    compared.result = at_equal_tokens(curves[0], curves[1], clusters)
    if compared.result is None:
        ranges = [_range(curve) for curve in curves]
        compared.note = (
            f"the tokens of a question do not overlap: {ranges[0]} here, {ranges[1]} in the baseline"
        )
    return compared


def _costs_of(row: TableRow, known: dict[str, Costs | str], reader: Reader) -> Costs | str:
    """Return what each question of a row cost, or why that is not known; each row is read once."""
    if row.run.run_id not in known:
        try:
            if row.run.over_seeds:
                raise NotPaired("each budget has several seeds: compare them without --seeds")
            parts = [reader.costs(part) for part in row.run.parts or [row.run]]
            known[row.run.run_id] = {question: cost for part in parts for question, cost in part.items()}
        except NotPaired as reason:
            known[row.run.run_id] = str(reason)
    return known[row.run.run_id]


def _range(curve: Curve) -> str:
    tokens = [count for count, _ in curve.points()]
    return f"{min(tokens):,.1f} to {max(tokens):,.1f}"


def _sentence(compared: CurvesCompared, setting: Setting, base_setting: Setting) -> str:
    differing = [key for key in setting.keys if setting.config[key] != base_setting.config[key]]
    shared = setting.name([key for key in setting.keys if key not in differing])
    on = f" on {shared}" if len(differing) < len(setting.keys) else ""
    names = [_short(side, differing) for side in (setting, base_setting)]
    head = f"at equal tokens, {names[0]} vs {names[1]}{on}"
    if compared.result is None:
        return f"{head}: not compared, {compared.note}"
    found = compared.result
    between = f"from {found.low_tokens:,.1f} to {found.high_tokens:,.1f} tokens a question"
    figures = f"Δ {_points(found.difference)}, p={p_value(found.p)}, Holm {p_value(found.p_holm)}".replace(
        "=<", "<"
    )
    at = ", ".join(
        f"{compared.budgets[point.budget]}: {_points(point.difference, '')}" for point in found.points
    )
    outside = ", ".join(compared.budgets[budget] for budget in found.outside)
    parts = [f"{head} (n={found.questions:,}): {found.finding} ({figures}), in the mean {between}"]
    if at:
        parts.append(f"at the tokens of its budgets {at}")
    if outside:
        parts.append(f"not at those of {outside}: no budget of the baseline takes as few or as many")
    return "; ".join(parts)


def _short(setting: Setting, keys: Sequence[str]) -> str:
    """Name a setting by the keys in which it differs: `nf4`, `lora=peft`."""
    if len(keys) == 1 and is_its_own_name(keys[0]):
        return str(setting.config[keys[0]])
    return setting.name(keys)


def _points(estimate: Estimate, unit: str = " points") -> str:
    return f"{points(estimate.value)}{unit} [{points(estimate.low)}, {points(estimate.high)}]"


def equal_tokens_record(compared: CurvesCompared) -> dict[str, Any]:
    """Return a comparison at equal tokens as plain data."""
    return {
        "setting": compared.setting,
        "baseline": compared.baseline,
        "note": compared.note or None,
        **({} if compared.result is None else _result_record(compared.result, compared.budgets)),
    }


def _result_record(result: EqualTokens, budgets: Sequence[str]) -> dict[str, Any]:
    return {
        "questions": result.questions,
        "clusters": result.clusters,
        "low_tokens": result.low_tokens,
        "high_tokens": result.high_tokens,
        **estimate_record("difference", result.difference),
        "p": result.p,
        "p_holm": result.p_holm,
        "finding": result.finding,
        "points": [
            {
                "budget": budgets[point.budget],
                "tokens": point.tokens,
                "accuracy": point.accuracy,
                "baseline_accuracy": point.baseline_accuracy,
                **estimate_record("difference", point.difference),
            }
            for point in result.points
        ],
        "outside": [budgets[budget] for budget in result.outside],
    }


SECTION = Budgets()
