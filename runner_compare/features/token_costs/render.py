"""What answers cost in tokens as cells, plain data and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runner_base import Picture
from runner_base.drawing import FRONT, MUTED
from runner_compare.metrics import ENDS, OF_QUESTION
from runner_compare.model.data import ABSENT, Table, TableRow
from runner_compare.render.lines import literal
from runner_compare.render.pictures import (
    LONGEST_AT_DOT,
    MAX_LABELS,
    MAX_PANELS,
    draw_point,
    finish_pane,
    front_of,
    longest,
    name_points,
    names_of,
    numbered,
    separate,
)
from runner_compare.statistics.token_costs import Estimate, TokenCost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = (
    "accuracy over the tokens of a question, prompt and new ones of all calls; bars: 95 % intervals of both; "
    "hollow: the baseline; line: the rows that no other row beats in both, as measured"
)


def token_pictures(table: Table, ranges: Mapping[str, Estimate]) -> list[Picture]:
    """Return the picture of a table with two rows or more whose tokens are known; `ranges` are
    theirs, by run id."""
    if len(over_tokens(table)) < 2:
        return []
    return [Picture("tokens", TITLE, lambda: draw_tokens(table, ranges))]


def over_tokens(table: Table) -> list[tuple[float, float, TableRow]]:
    """Return tokens per question and accuracy of each row that has both."""
    return [
        (sum(row.run.metrics[key] for key in OF_QUESTION), 100 * row.run.interval[0], row)
        for row in table.rows
        if row.run.interval and row.run.metrics.keys() >= set(OF_QUESTION)
    ]


def draw_tokens(table: Table, ranges: Mapping[str, Estimate]) -> Figure:
    """Draw accuracy over tokens per question, with a pane for each set of questions."""
    from matplotlib.figure import Figure

    all_points = over_tokens(table)
    panels = list(dict.fromkeys(row.panel for *_, row in all_points))[:MAX_PANELS]
    figure = Figure(figsize=(8.6, 0.4 + 3.6 * len(panels)), layout="constrained")
    labels = []
    for pane, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        points = [point for point in all_points if point[2].panel == panel]
        points.sort(key=lambda point: point[2].is_baseline)  # the baseline on top
        panel_keys = {part.partition("=")[0] for part in panel}
        front = front_of([(x, y) for x, y, _ in points], sign=-1)
        for x, y, row in points:
            colour = FRONT if (x, y) in front else MUTED
            draw_point(pane, x, y, row, ranges.get(row.run.run_id), colour, row.is_baseline)
        keys = [key for key in table.keys if key not in panel_keys]
        names = names_of([row for *_, row in all_points if row.panel == panel], keys)
        # they would cover each other
        if len(points) > MAX_LABELS or longest(names) > LONGEST_AT_DOT:
            names = numbered(pane, names)
        labels.append(name_points(pane, points, names, front))
        finish_pane(pane, front)
        pane.set_title(literal(", ".join(panel)), loc="left")
        pane.set_xlabel("prompt and new tokens a question")
        pane.set_ylabel("accuracy, %")
    separate(figure, labels)
    return figure


def correct_per_1000_cell(cost: TokenCost | None) -> str:
    if cost is None:
        return ABSENT
    value, low, high = cost.correct_per_1000
    return f"{value:.2f} [{low:.2f}, {high:.2f}]".replace("inf", "∞")


def cost_record(cost: TokenCost) -> dict[str, Any]:
    """Return the costs as plain data; an end that is infinite is null."""
    record = {key: value for key, value in asdict(cost).items() if not isinstance(value, tuple)}
    for key in ("tokens_a_question", "correct_per_1000"):
        record |= estimate_record(key, getattr(cost, key))
    return record


def estimate_record(key: str, estimate: Estimate) -> dict[str, float | None]:
    """Return a value and the ends of its interval under their keys in JSON."""
    ends = {f"{key}{end}": value for end, value in zip(ENDS, estimate, strict=True)}
    return {name: value if abs(value) != float("inf") else None for name, value in ends.items()}
