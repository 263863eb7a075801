"""Renders text, JSON data and plots for configurations that ran with several thinking budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_compare.features.budgets.budget_settings import (
    BudgetSetting,
    budget_sort_key,
    get_thinking_budget,
    group_rows_across_thinking_budgets,
)
from runner_compare.features.thinking.compute import compute_mean_tokens_per_question
from runner_compare.features.token_costs.render import build_estimate_record
from runner_compare.model.data import Table
from runner_compare.render.effects import format_p_value
from runner_compare.render.labels import format_assignments, is_self_explanatory, shorten_row_names
from runner_compare.render.lines import MAX_LINES, add_line_legend, draw_line_with_intervals, escape_mathtext
from runner_compare.render.pictures import MAX_PANELS, draw_pareto_front_and_grid
from runner_compare.render.quantities import format_percentage_points
from runner_compare.statistics.equal_tokens import ComparedCurves, EqualTokensComparison
from runner_compare.statistics.token_costs import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LETTERS = 36  # of a value in a name
# by how much the bars of settings are beside one another, of the space between budgets
APART = 0.06


def create_thinking_budget_pictures(table: Table) -> list[Picture]:
    """Return the plot of accuracy by thinking budget; [] if no configuration ran with several budgets."""
    settings = group_rows_across_thinking_budgets(table)
    if not settings:
        return []
    title = (
        "accuracy of each setting by thinking budget and by total tokens per question (prompt, thinking and "
        "answer). Bars show 95 % intervals. Hollow markers show the baseline"
    )
    return [Picture("thinking_budget", title, lambda: draw_accuracy_over_thinking_budget(settings))]


def draw_accuracy_over_thinking_budget(settings: Sequence[BudgetSetting]) -> Figure:
    """Draw accuracy by thinking budget (left) and by tokens per question (right).

    Each setting is one line. Each set of questions is one row of the figure.
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(setting.rows[0].panel for setting in settings))[:MAX_PANELS]
    figure = Figure(figsize=(9.6, 0.4 + 3.4 * len(panels)), layout="constrained")
    for panes, panel in zip(
        figure.subplots(len(panels), 2, squeeze=False, sharey="row"), panels, strict=True
    ):
        every = [setting for setting in settings if setting.rows[0].panel == panel]
        members = every[:MAX_LINES]
        panel_keys = {part.partition("=")[0] for part in panel}
        keys = [key for key in members[0].keys if key.removesuffix(".name") not in panel_keys]
        names = shorten_row_names([member.rows[0] for member in members], keys, MAX_LETTERS) if keys else [""]
        budgets = list(dict.fromkeys(budget for setting in every for budget in setting.budgets))
        budgets.sort(key=budget_sort_key)
        for number, (setting, name) in enumerate(zip(members, names, strict=True)):
            aside = APART * (number - (len(members) - 1) / 2)
            _draw_budget_accuracy_line(
                panes[0],
                setting,
                number,
                name,
                [budgets.index(get_thinking_budget(row)) + aside for row in setting.rows],
            )
            _draw_budget_accuracy_line(
                panes[1],
                setting,
                number,
                name,
                [compute_mean_tokens_per_question(row.run) or 0.0 for row in setting.rows],
            )
        for pane in panes:
            draw_pareto_front_and_grid(pane)
        cut = f" (the first {len(members)} of {len(every)} settings)" if len(members) < len(every) else ""
        panes[0].set_title(escape_mathtext(", ".join(panel) + cut), loc="left")
        panes[0].set_xticks(range(len(budgets)), [*map(format_budget, budgets)])
        panes[0].set_xlabel("budget of thinking tokens")
        panes[1].set_xlabel("tokens per question (prompt, thinking and answer)")
        panes[0].set_ylabel("accuracy, %")
        if keys:
            add_line_legend(panes[1])
    return figure


def _draw_budget_accuracy_line(
    axes: Axes, setting: BudgetSetting, line_index: int, label: str, x_values: Sequence[float]
) -> None:
    intervals = [[100 * value for value in row.run.accuracy_interval or ()] for row in setting.rows]
    points = [(x, middle, low, high) for x, (middle, low, high) in zip(x_values, intervals, strict=True)]
    is_hollow = any(row.is_baseline for row in setting.rows)
    draw_line_with_intervals(axes, line_index, label, sorted(points, key=lambda point: point[0]), is_hollow)


def format_equal_token_comparison(
    setting: BudgetSetting, base_setting: BudgetSetting, compared: ComparedCurves
) -> str:
    head = _format_compared_settings(setting, base_setting)
    if compared.result is None:
        return f"{head}: not compared, {compared.note}"
    found = compared.result
    between = f"from {found.low_tokens:,.1f} to {found.high_tokens:,.1f} tokens per question"
    figures = (
        f"Δ {_format_points(found.difference)}, p={format_p_value(found.p)}, "
        f"Holm {format_p_value(found.p_holm)}"
    ).replace("=<", "<")
    at = ", ".join(
        f"{format_budget(compared.budgets[point.budget])}: {_format_points(point.difference, '')}"
        for point in found.points
    )
    outside = ", ".join(format_budget(compared.budgets[budget]) for budget in found.outside)
    parts = [f"{head} (n={found.questions:,}): {found.finding} ({figures}), on average {between}"]
    if at:
        parts.append(f"difference at each budget: {at}")
    if outside:
        parts.append(f"not compared at {outside}, because the baseline has no such token counts")
    return "; ".join(parts)


def format_equal_tokens_comparison_line(
    setting: BudgetSetting, base_setting: BudgetSetting, compared: ComparedCurves
) -> str:
    """Format the result of a comparison at equal token counts as one line."""
    head = _format_compared_settings(setting, base_setting)
    if compared.result is None:
        return f"{head}: not compared, {compared.note}."
    return f"{head}: {compared.result.finding}, {_format_points(compared.result.difference)}."


def _format_compared_settings(setting: BudgetSetting, base_setting: BudgetSetting) -> str:
    differing = [key for key in setting.keys if setting.config[key] != base_setting.config[key]]
    shared = _setting_name(setting, [key for key in setting.keys if key not in differing])
    on = f" on {shared}" if len(differing) < len(setting.keys) else ""
    names = [_format_short_setting_name(side, differing) for side in (setting, base_setting)]
    return f"at equal tokens, {names[0]} vs {names[1]}{on}"


def _format_short_setting_name(setting: BudgetSetting, keys: Sequence[str]) -> str:
    """Name a configuration by the config values that distinguish it, e.g. `nf4` or `lora=peft`."""
    if len(keys) == 1 and is_self_explanatory(keys[0]):
        return str(setting.config[keys[0]])
    return _setting_name(setting, keys)


def _setting_name(setting: BudgetSetting, keys: Sequence[str]) -> str:
    return format_assignments(setting.rows[0], [*keys]) or "the setting"


def format_budget(budget: str | None) -> str:
    return "no limit" if budget is None else budget


def _format_points(estimate: Estimate, unit: str = " points") -> str:
    value, low, high = map(format_percentage_points, (estimate.value, estimate.low, estimate.high))
    return f"{value}{unit} [{low}, {high}]"


def equal_tokens_record(compared: ComparedCurves) -> dict[str, Any]:
    return {
        "setting": compared.setting,
        "baseline": compared.baseline,
        "note": compared.note or None,
        **({} if compared.result is None else _comparison_record(compared.result, compared.budgets)),
    }


def _comparison_record(result: EqualTokensComparison, budgets: Sequence[str | None]) -> dict[str, Any]:
    return {
        "questions": result.questions,
        "clusters": result.clusters,
        "low_tokens": result.low_tokens,
        "high_tokens": result.high_tokens,
        **build_estimate_record("difference", result.difference),
        "p": result.p,
        "p_holm": result.p_holm,
        "finding": result.finding,
        "points": [
            {
                "budget": format_budget(budgets[point.budget]),
                "tokens": point.tokens,
                "accuracy": point.accuracy,
                "baseline_accuracy": point.baseline_accuracy,
                **build_estimate_record("difference", point.difference),
            }
            for point in result.points
        ],
        "outside": [format_budget(budgets[budget]) for budget in result.outside],
    }
