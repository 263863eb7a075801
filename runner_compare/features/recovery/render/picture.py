"""Draws recoveries with intervals: one panel per set of questions, and one for all sets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from runner_base.drawing import INK, LINE, MUTED, PAPER
from runner_compare.features.recovery.compute import RecoveryCell, RecoveryTable
from runner_compare.features.recovery.render.text import (
    CardSection,
    format_cell_verdict,
    format_recovery_legend,
    format_recovery_with_interval,
    format_settings,
    list_cells,
    list_column_names,
    list_library_versions,
    name_candidates,
    shorten_hash,
    shorten_path,
    summarize_question_set,
)
from runner_compare.render.lines import escape_mathtext
from runner_compare.render.pictures import choose_verdict_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS, MAX_SETS = 24, 4
ROW_HEIGHT, PANEL_WIDTH, LINE_HEIGHT, EDGE = 0.5, 2.75, 0.185, 0.25  # in inches
LETTER_WIDTH = 0.078
MIN_WIDTH = 7.8  # of the picture, for its title
SPREAD = 0.04  # of the shown range, to both sides
MAX_SHOWN = 2.0  # a longer interval is cut


def draw_recovery_panels(table: RecoveryTable) -> Figure:
    return _draw(table, [], [], [])


def draw_recovery_card(table: RecoveryTable, section: CardSection | None = None) -> Figure:
    """Draw the panels with a title above, and with questions, hashes and versions below."""
    heads = ["Recovery: accuracy of the candidate ÷ accuracy of the baseline", format_settings(table)]
    lines = []
    if section is not None:
        heads.append(section.title)
        lines = section.format_rows_as_lines()
    return _draw(table, heads, lines, _list_footer_lines(table))


def _list_footer_lines(table: RecoveryTable) -> list[str]:
    lines = [
        f"{facts.name}: {summarize_question_set(facts)} · SHA-256 {shorten_hash(facts.sha256)}"
        for facts in table.sets[:MAX_SETS]
    ]
    facts_by_name = {"baseline": table.baseline_facts} | {
        name: candidate.facts
        for name, candidate in zip(name_candidates(table), table.candidates, strict=True)
    }
    hashes = {facts.model_sha256 for facts in facts_by_name.values()}
    if len(hashes) == 1 and None not in hashes:
        lines.append(f"files of the model: SHA-256 {shorten_hash(*hashes)}")
    for name, facts in [*facts_by_name.items()][: MAX_ROWS + 1]:
        model = f" · SHA-256 {shorten_hash(facts.model_sha256)}" if len(hashes) > 1 else ""
        lines.append(f"{name}: {' '.join(map(shorten_path, facts.job_ids[:MAX_SETS]))}{model}")
    if versions := list_library_versions([*facts_by_name.values()]):
        lines.append(" · ".join(versions))
    return lines


def _draw(table: RecoveryTable, heads: list[str], section_lines: list[str], footer: list[str]) -> Figure:
    from matplotlib.figure import Figure

    names = name_candidates(table)[:MAX_ROWS]
    columns = list_column_names(table)
    kept = [*range(min(MAX_SETS, len(table.sets))), *([len(table.sets)] if len(table.sets) > 1 else [])]
    sizes = [candidate.facts.size_bytes.get("weights") for candidate in table.candidates]
    labels = [
        escape_mathtext(name) + ("" if size is None else f"\n{size / (1 << 20):,.2f} MiB")
        for name, size in zip(names, sizes, strict=False)
    ]
    left = EDGE + 0.1 + LETTER_WIDTH * max(9, *(len(line) for label in labels for line in label.split("\n")))
    panel_width = max(PANEL_WIDTH, (MIN_WIDTH - left - EDGE) / len(kept))
    width = left + panel_width * len(kept) + EDGE
    legend = [line for text in section_lines for line in _wrap(text, width)]
    legend += _wrap(format_recovery_legend(table), width) if heads else []
    below = [line for text in footer for line in _wrap(text, width)]
    top = 0.42 + (0.25 * len(heads) + 0.1 if heads else 0.0)
    panel_height = ROW_HEIGHT * len(names) + 0.1
    bottom = 0.4 + LINE_HEIGHT * (len(below) + len(legend)) + (0.3 if heads else 0.0)
    height = top + panel_height + bottom
    figure = Figure(figsize=(width, height))
    low, high = _find_recovery_axis_range(table)
    for position, number in enumerate(kept):
        pane = figure.add_axes(
            (
                (left + panel_width * position) / width,
                bottom / height,
                (panel_width - 0.3) / width,
                panel_height / height,
            )
        )
        cells = [list_cells(candidate)[number] for candidate in table.candidates[: len(names)]]
        _draw_recovery_panel(pane, columns[number], cells, low, high, is_pooled=number == len(table.sets))
        pane.set_yticks(range(len(names)), labels if position == 0 else [""] * len(names), color=INK)
    for number, line in enumerate(heads):
        style: dict[str, Any] = {"fontsize": 9.5, "color": MUTED}
        if number == 0:
            style = {"fontsize": 13, "fontweight": "bold"}
        figure.text(EDGE / width, 1 - (0.34 + 0.25 * number) / height, escape_mathtext(line), **style)
    for number, line in enumerate(reversed([*legend, *below])):
        is_legend = number >= len(below)
        y = (0.16 + LINE_HEIGHT * number + (0.08 if is_legend else 0)) / height
        figure.text(EDGE / width, y, escape_mathtext(line), fontsize=7.5, color=INK if is_legend else MUTED)
    return figure


def _wrap(text: str, width_inches: float) -> list[str]:
    from textwrap import wrap

    return wrap(text, int((width_inches - 2 * EDGE) / 0.058), break_on_hyphens=False)


def _find_recovery_axis_range(table: RecoveryTable) -> tuple[float, float]:
    found = [
        cell.recovery
        for candidate in table.candidates
        for cell in list_cells(candidate)
        if cell.recovery is not None
    ]
    low = min([0.98, *(recovery.low for recovery in found)])
    values = [recovery.value for recovery in found if math.isfinite(recovery.value)]
    high = max([1.02, *values, *(min(MAX_SHOWN, recovery.high) for recovery in found)])
    return 100 * (low - SPREAD * (high - low)), 100 * (high + SPREAD * (high - low))


def _draw_recovery_panel(
    pane: Axes, title: str, cells: list[RecoveryCell], low: float, high: float, is_pooled: bool
) -> None:
    pane.set_title(escape_mathtext(title), loc="left", fontweight="bold" if is_pooled else "normal")
    pane.axvline(100, color=MUTED, linewidth=1)
    for index, cell in enumerate(cells):
        if cell.recovery is None or cell.decision is None:
            pane.text(low, index, "not compared", fontsize=8, color=MUTED, va="center")
            continue
        colour = choose_verdict_colour(cell.decision)
        ends = [100 * cell.recovery.low, min(high, 100 * cell.recovery.high)]
        pane.plot(ends, [index + 0.16] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
        if math.isfinite(cell.recovery.value):
            pane.plot([100 * cell.recovery.value], [index + 0.16], marker="o", markersize=6, color=colour)
        behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}
        at: dict[str, Any] = {"y": index - 0.2, "va": "center", "fontsize": 8, "bbox": behind}
        pane.text(low, s=format_recovery_with_interval(cell), color=INK, **at)
        pane.text(high, s=format_cell_verdict(cell), color=colour, ha="right", **at)
    pane.set_xlim(low, high)
    pane.set_ylim(len(cells) - 0.45, -0.55)
    pane.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    pane.locator_params(axis="x", nbins=4)
    pane.grid(axis="x", color=LINE, linewidth=0.6)
    pane.set_axisbelow(True)
    pane.tick_params(axis="y", length=0, pad=8)
    pane.spines["left"].set_visible(False)
