"""Settings with several budgets of thinking as text, plain data and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_compare.features.budgets.settings import Setting, budget_of, by_size, settings_of
from runner_compare.features.thinking.compute import tokens_of_question
from runner_compare.features.token_costs.render import estimate_record
from runner_compare.model.data import Table
from runner_compare.render.effects import p_value
from runner_compare.render.labels import assignments, is_its_own_name, short_names
from runner_compare.render.lines import MAX_LINES, draw_line, literal, name_lines
from runner_compare.render.pictures import MAX_PANELS, finish_pane
from runner_compare.render.quantities import points
from runner_compare.statistics.equal_tokens import CurvesCompared, EqualTokens
from runner_compare.statistics.token_costs import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LETTERS = 36  # of a value in a name
# by how much the bars of settings are beside one another, of the space between budgets
APART = 0.06


def budget_pictures(table: Table) -> list[Picture]:
    """Return the picture of a table that has settings with several budgets; none for another."""
    settings = settings_of(table)
    if not settings:
        return []
    title = (
        "accuracy over the budget of thinking tokens, and over all tokens of a question (prompt, thinking and answer), "
        "for each setting; bars: 95 % intervals; hollow: the baseline"
    )
    return [Picture("thinking_budget", title, lambda: over_budget(settings))]


def over_budget(settings: Sequence[Setting]) -> Figure:
    """Draw a line for each setting, with two panes for each set of questions."""
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
        names = short_names([member.rows[0] for member in members], keys, MAX_LETTERS) if keys else [""]
        budgets = list(dict.fromkeys(budget for setting in every for budget in setting.budgets))
        budgets.sort(key=by_size)
        for number, (setting, name) in enumerate(zip(members, names, strict=True)):
            aside = APART * (number - (len(members) - 1) / 2)
            _line(
                panes[0],
                setting,
                number,
                name,
                [budgets.index(budget_of(row)) + aside for row in setting.rows],
            )
            _line(
                panes[1], setting, number, name, [tokens_of_question(row.run) or 0.0 for row in setting.rows]
            )
        for pane in panes:
            finish_pane(pane)
        cut = f" (the first {len(members)} of {len(every)} settings)" if len(members) < len(every) else ""
        panes[0].set_title(literal(", ".join(panel) + cut), loc="left")
        panes[0].set_xticks(range(len(budgets)), [*map(budget_words, budgets)])
        panes[0].set_xlabel("budget of thinking tokens")
        panes[1].set_xlabel("tokens a question: prompt, thinking and answer")
        panes[0].set_ylabel("accuracy, %")
        if keys:
            name_lines(panes[1])
    return figure


def _line(pane: Axes, setting: Setting, number: int, name: str, xs: Sequence[float]) -> None:
    """Draw a setting's accuracies with their intervals."""
    intervals = [[100 * value for value in row.run.interval or ()] for row in setting.rows]
    points = [(x, middle, low, high) for x, (middle, low, high) in zip(xs, intervals, strict=True)]
    is_hollow = any(row.is_baseline for row in setting.rows)
    draw_line(pane, number, name, sorted(points, key=lambda point: point[0]), is_hollow)


def equal_tokens_sentence(setting: Setting, base_setting: Setting, compared: CurvesCompared) -> str:
    differing = [key for key in setting.keys if setting.config[key] != base_setting.config[key]]
    shared = _name(setting, [key for key in setting.keys if key not in differing])
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
        f"{budget_words(compared.budgets[point.budget])}: {_points(point.difference, '')}"
        for point in found.points
    )
    outside = ", ".join(budget_words(compared.budgets[budget]) for budget in found.outside)
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
    return _name(setting, keys)


def _name(setting: Setting, keys: Sequence[str]) -> str:
    return assignments(setting.rows[0], [*keys]) or "the setting"


def budget_words(budget: str | None) -> str:
    return "no limit" if budget is None else budget


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


def _result_record(result: EqualTokens, budgets: Sequence[str | None]) -> dict[str, Any]:
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
                "budget": budget_words(budgets[point.budget]),
                "tokens": point.tokens,
                "accuracy": point.accuracy,
                "baseline_accuracy": point.baseline_accuracy,
                **estimate_record("difference", point.difference),
            }
            for point in result.points
        ],
        "outside": [budget_words(budgets[budget]) for budget in result.outside],
    }
