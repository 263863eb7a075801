"""Renders tables and plots of loss and KL divergence by token position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner_base import Column, ColumnUse, Picture
from runner_compare.metrics import ENDS
from runner_compare.metrics.likelihoods import KL, LOSS
from runner_compare.model.data import ABSENT, Run, Table, TableRow
from runner_compare.render.columns import build_row_name_columns_for
from runner_compare.render.labels import shorten_row_names
from runner_compare.render.lines import MAX_LINES, add_line_legend, draw_line_with_intervals
from runner_compare.render.pictures import draw_pareto_front_and_grid
from runner_compare.render.token_metrics import format_metric
from runner_compare.statistics.position_loss import CELL, list_bin_positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LETTERS = 36  # of a value in a name
WORDS = {LOSS: "loss, nats per token", KL: "KL divergence from the reference, nats per token"}
XValueLister = Callable[[Mapping[str, float]], Sequence[int]]
AXIS = "position (number of preceding tokens, in bins of powers of two)"
TITLE = "loss by position (number of preceding tokens), with 95 % intervals over documents"


def create_loss_curve_pictures(
    table: Table, name: str, key_prefix: str, list_x_values: XValueLister, axis_label: str
) -> list[Picture]:
    """Create the plot of loss by position or context length.

    Returns [] if no row has at least two positions or lengths.
    """
    rows = [row for row in table.rows if len(list_x_values(row.run.metrics)) > 1]
    if not rows:
        return []
    title = f"loss by {axis_label}. Bars show 95 % intervals over documents. Hollow markers show the baseline"
    return [
        Picture(
            name, title, lambda: draw_loss_curves(rows, table.keys, key_prefix, list_x_values, axis_label)
        )
    ]


def draw_loss_curves(
    rows: Sequence[TableRow],
    keys: Sequence[str],
    key_prefix: str,
    list_x_values: XValueLister,
    axis_label: str,
) -> Figure:
    """Plot the loss by position or context length, and the KL divergence next to it if it was measured."""
    from matplotlib.figure import Figure

    members = rows[:MAX_LINES]
    metrics = [
        key
        for key in WORDS
        if any(
            f"{key}{key_prefix}{position}" in row.run.metrics
            for row in members
            for position in list_x_values(row.run.metrics)
        )
    ]
    figure = Figure(figsize=(8.6, 0.4 + 3.6 * len(metrics)), layout="constrained")
    names = shorten_row_names(members, keys, MAX_LETTERS) if keys else [""] * len(members)
    panes = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    for pane, key in zip(panes, metrics, strict=True):
        for number, (row, name) in enumerate(zip(members, names, strict=True)):
            _draw_loss_curve_of_row(
                pane,
                row,
                number,
                name,
                [f"{key}{{}}{key_prefix}{position}" for position in list_x_values(row.run.metrics)],
            )
        pane.set_ylabel(WORDS[key])
        draw_pareto_front_and_grid(pane)
    places = sorted({position for row in members for position in list_x_values(row.run.metrics)})
    scale: dict[str, float] = {"linthresh": places[1]} if places[0] == 0 else {}
    panes[-1].set_xscale("symlog" if scale else "log", base=2, **scale)
    panes[-1].set_xticks(places, [f"{position:,}" for position in places])
    panes[-1].minorticks_off()
    panes[-1].set_xlabel(axis_label)
    cut = f"the first {len(members)} of {len(rows)} rows" if len(members) < len(rows) else ""
    panes[0].set_title(cut, loc="left")
    if len(members) > 1:
        add_line_legend(panes[0])
    return figure


def _draw_loss_curve_of_row(
    axes: Axes, row: TableRow, line_index: int, label: str, keys: Sequence[str]
) -> None:
    """Plot the values of one table row with error bars.

    `keys` are metric keys with a placeholder for the end of the interval.
    """
    metrics = row.run.metrics
    points = [(int(key.rpartition("_")[2]), [metrics.get(key.format(end)) for end in ENDS]) for key in keys]
    known = [(x, middle, low, high) for x, (middle, low, high) in points if middle is not None]
    draw_line_with_intervals(axes, line_index, label, known, row.is_baseline)


def _format_cell(run: Run, key: str, number_format: str, first: int) -> str:
    return format_metric(run.metrics, key, number_format.format, "", f"/{CELL}{first}") or ABSENT


def format_bin_range(first_position: int) -> str:
    """Format the range of positions in a bin, e.g. `4–7`."""
    return f"{first_position:,}" if first_position == 1 else f"{first_position:,}–{2 * first_position - 1:,}"


def build_loss_by_position_rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for first in list_bin_positions(metrics):
        cell = f"/{CELL}{first}"
        line: dict[str, Any] = {
            "tokens before": format_bin_range(first),
            "texts": int(metrics[f"n{cell}"]),
            "tokens": int(metrics[f"scored_tokens{cell}"]),
            "loss, nats/token": format_metric(metrics, LOSS, "{:.4f}".format, "", cell),
        }
        if f"{KL}{cell}" in metrics:
            line["KL, nats/token"] = format_metric(metrics, KL, "{:.3g}".format, "", cell)
        lines.append(line)
    return lines


def build_loss_by_position_tables(table: Table) -> dict[str, list[Column]]:
    lines = [(row, first) for row in table.rows for first in list_bin_positions(row.run.metrics)]
    if not lines:
        return {}
    columns = build_row_name_columns_for(table, [row for row, _ in lines])
    columns.append(
        Column("tokens before", [format_bin_range(first) for _, first in lines], use=ColumnUse.setting)
    )
    texts = [f"{row.run.metrics[f'n/{CELL}{first}']:,.0f}" for row, first in lines]
    columns.append(Column("texts", texts, use=ColumnUse.more))
    for head, key, form in (("loss\nnats/token", LOSS, "{:.4f}"), ("KL\nnats/token", KL, "{:.3g}")):
        cells = [_format_cell(row.run, key, form, first) for row, first in lines]
        if any(cell != ABSENT for cell in cells):
            columns.append(Column(head, cells, use=ColumnUse.result))
    return {TITLE: columns}
