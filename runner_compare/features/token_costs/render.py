"""Renders token costs as table cells, JSON data and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_base.drawing import FRONT, MUTED
from runner_compare.metrics import ENDS, OF_QUESTION
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.lines import escape_mathtext
from runner_compare.render.pictures import (
    LONGEST_AT_DOT,
    MAX_LABELS,
    MAX_PANELS,
    draw_accuracy_point_with_intervals,
    draw_legend_and_number_runs,
    draw_pareto_front_and_grid,
    find_pareto_front,
    label_points,
    max_line_length,
    move_overlapping_labels_apart,
    wrap_row_names,
)
from runner_compare.statistics.token_costs import Estimate, TokenCost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = (
    "accuracy over the tokens of a question, prompt and new ones of all calls; bars: 95 % intervals of both; "
    "hollow: the baseline; line: the rows that no other row beats in both, as measured"
)


def create_accuracy_by_tokens_pictures(
    table: Table, token_estimates: Mapping[str, Estimate]
) -> list[Picture]:
    """Return the plot of accuracy by tokens per question; [] if fewer than two rows have token counts.

    `token_estimates` has their intervals by run id.
    """
    if len(list_tokens_and_accuracies(table)) < 2:
        return []
    return [Picture("tokens", TITLE, lambda: draw_accuracy_over_tokens(table, token_estimates))]


def list_tokens_and_accuracies(table: Table) -> list[tuple[float, float, TableRow]]:
    """Return each row's tokens per question and accuracy in percent. Rows without both values are omitted."""
    return [
        (sum(row.run.metrics[key] for key in OF_QUESTION), 100 * row.run.accuracy_interval[0], row)
        for row in table.rows
        if row.run.accuracy_interval and row.run.metrics.keys() >= set(OF_QUESTION)
    ]


def draw_accuracy_over_tokens(table: Table, token_estimates: Mapping[str, Estimate]) -> Figure:
    from matplotlib.figure import Figure

    all_points = list_tokens_and_accuracies(table)
    panels = list(dict.fromkeys(row.panel for *_, row in all_points))[:MAX_PANELS]
    figure = Figure(figsize=(8.6, 0.4 + 3.6 * len(panels)), layout="constrained")
    labels = []
    for pane, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        points = [point for point in all_points if point[2].panel == panel]
        points.sort(key=lambda point: point[2].is_baseline)  # the baseline on top
        panel_keys = {part.partition("=")[0] for part in panel}
        front = find_pareto_front([(x, y) for x, y, _ in points], x_direction=-1)
        for x, y, row in points:
            colour = FRONT if (x, y) in front else MUTED
            draw_accuracy_point_with_intervals(
                pane, x, y, row, token_estimates.get(row.run.run_id), colour, row.is_baseline
            )
        keys = [key for key in table.keys if key not in panel_keys]
        names = wrap_row_names([row for *_, row in all_points if row.panel == panel], keys)
        # they would cover each other
        if len(points) > MAX_LABELS or max_line_length(names) > LONGEST_AT_DOT:
            names = draw_legend_and_number_runs(pane, names)
        labels.append(label_points(pane, points, names, front))
        draw_pareto_front_and_grid(pane, front)
        pane.set_title(escape_mathtext(", ".join(panel)), loc="left")
        pane.set_xlabel("prompt and new tokens a question")
        pane.set_ylabel("accuracy, %")
    move_overlapping_labels_apart(figure, labels)
    return figure


def format_correct_per_1000_tokens(cost: TokenCost | None) -> str:
    if cost is None:
        return ABSENT
    value, low, high = cost.correct_per_1000
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("inf", "∞")


def build_token_cost_record(cost: TokenCost) -> dict[str, Any]:
    """Return token costs as JSON data. Infinite ends of intervals become null."""
    record = {key: value for key, value in asdict(cost).items() if not isinstance(value, tuple)}
    for key in ("tokens_a_question", "correct_per_1000"):
        record |= build_estimate_record(key, getattr(cost, key))
    return record


def build_estimate_record(key: str, estimate: Estimate) -> dict[str, float | None]:
    ends = {f"{key}{end}": value for end, value in zip(ENDS, estimate, strict=True)}
    return {name: value if abs(value) != float("inf") else None for name, value in ends.items()}
