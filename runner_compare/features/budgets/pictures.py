"""Draws the accuracy of each setting over its budgets of thinking, and over the tokens that a
question then takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runner_base import Picture
from runner_base.drawing import BAD, FRONT, GOOD, INK, MUTED, PAPER
from runner_compare.features.budgets.settings import Setting, budget_of, by_size, settings_of
from runner_compare.features.thinking.section import tokens_of_question
from runner_compare.model.data import Table
from runner_compare.render.labels import short_names
from runner_compare.render.pictures import MAX_PANELS, finish_pane, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS, LINES, MARKERS = ((INK, FRONT, BAD, GOOD, MUTED), ("-", (0, (4, 2))), ("o", "s", "^", "D", "v"))
MAX_SETTINGS = len(COLOURS) * len(LINES)  # of a pane
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
        members = every[:MAX_SETTINGS]
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
        panes[0].set_xticks(range(len(budgets)), budgets)
        panes[0].set_xlabel("budget of thinking tokens")
        panes[1].set_xlabel("tokens a question: prompt, thinking and answer")
        panes[0].set_ylabel("accuracy, %")
        if keys:
            panes[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return figure


def _line(pane: Axes, setting: Setting, number: int, name: str, xs: Sequence[float]) -> None:
    """Draw a setting's accuracies with their intervals."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    intervals = [tuple(100 * value for value in row.run.interval) for row in setting.rows if row.run.interval]
    points = sorted(zip(xs, intervals, setting.rows, strict=True), key=lambda point: point[0])
    pane.plot(
        [x for x, *_ in points],
        [middle for _, (middle, *_), _ in points],
        color=colour,
        linestyle=LINES[number // len(COLOURS)],
        linewidth=1.2,
        marker=marker,
        markersize=5,
        markerfacecolor=PAPER if any(row.is_baseline for row in setting.rows) else colour,
        label=literal(name),
    )
    for x, (_, low, high), _ in points:
        pane.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.45, solid_capstyle="butt", zorder=1)
