"""Compares accuracies at equal token counts, for configurations that ran with several thinking budgets."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.features.budgets.budget_settings import BudgetSetting, group_rows_across_thinking_budgets
from runner_compare.model.data import NotPaired, Table, TableRow
from runner_compare.model.outcomes import Costs
from runner_compare.reader import Reader
from runner_compare.statistics.equal_tokens import (
    MIN_QUESTIONS,
    BudgetCurve,
    ComparedCurves,
    EqualTokensComparison,
    compare_accuracies_at_equal_tokens,
    decide_equal_tokens,
)


@dataclass
class TableBudgetData:
    """Comparisons of accuracy at equal token counts, one per configuration and its baseline."""

    compared: list[tuple[BudgetSetting, BudgetSetting, ComparedCurves]] = field(default_factory=list)


def compare_settings_at_equal_tokens(table: Table, reader: Reader) -> None:
    settings = group_rows_across_thinking_budgets(table)
    of_row = {row.run.run_id: setting for setting in settings for row in setting.rows}
    costs: dict[str, Costs] = {}
    compared = table.get_section_data(TableBudgetData).compared
    for setting in settings:
        baselines = [row.baseline for row in setting.rows if row.baseline is not None]
        base = of_row.get(baselines[0].run.run_id) if baselines else None
        if (
            base is not None
            and base is not setting
            and all(of_row.get(row.run.run_id) is base for row in baselines)
        ):
            curves = ComparedCurves(setting.config, base.config, setting.budgets, None)
            compared.append((setting, base, curves))
            try:
                curves.result = _compare_at_equal_token_counts(setting, base, costs, reader)
            except NotPaired as reason:
                curves.note = str(reason)
    decide_equal_tokens([curves.result for *_, curves in compared if curves.result])


def _compare_at_equal_token_counts(
    setting: BudgetSetting, base_setting: BudgetSetting, costs: dict[str, Costs], reader: Reader
) -> EqualTokensComparison:
    """Compare two configurations at equal token counts, on the questions that all jobs of both answered."""
    of_rows = [
        _load_token_costs_per_question(row, costs, reader) for row in (*setting.rows, *base_setting.rows)
    ]
    answered = [{question for question, cost in of_row.items() if not cost.failed} for of_row in of_rows]
    shared = sorted(set.intersection(*answered))
    curves = [
        BudgetCurve(
            [[of_row[question].right for question in shared] for of_row in side],
            [[of_row[question].prompt + of_row[question].new for question in shared] for of_row in side],
        )
        for side in (of_rows[: len(setting.rows)], of_rows[len(setting.rows) :])
    ]
    families = [next((of_row[question].cluster for of_row in of_rows), None) for question in shared]
    clusters = None if None in families else families
    count, what = (len(set(families)), "clusters of questions") if clusters else (len(shared), "questions")
    if count < MIN_QUESTIONS:
        raise NotPaired(
            f"only {count} {what} were answered at every budget, but the test needs {MIN_QUESTIONS}"
        )
    result = compare_accuracies_at_equal_tokens(curves[0], curves[1], clusters)
    if result is None:
        ranges = [_format_token_range(curve) for curve in curves]
        raise NotPaired(
            f"the token counts do not overlap: {ranges[0]} in this run, {ranges[1]} in the baseline"
        )
    return result


def _load_token_costs_per_question(row: TableRow, cache: dict[str, Costs], reader: Reader) -> Costs:
    """Return the token counts of each question of a table row. `cache` stores counts that are
    already loaded.
    """
    if row.run.run_id not in cache:
        if row.run.over_seeds:
            raise NotPaired(
                "budgets with several seeds cannot be compared at equal token counts. Omit --seeds"
            )
        parts = [reader.load_token_costs(part) for part in row.run.parts or [row.run]]
        cache[row.run.run_id] = {question: cost for part in parts for question, cost in part.items()}
    return cache[row.run.run_id]


def _format_token_range(curve: BudgetCurve) -> str:
    tokens = [count for count, _ in curve.mean_points()]
    return f"{min(tokens):,.1f} to {max(tokens):,.1f}"
