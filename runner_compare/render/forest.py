"""Forest plot for terminals: each row's difference with interval, zero line and margin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner_base import escape_control_characters
from runner_compare.model.data import TableRow
from runner_compare.render.effects import interval_level
from runner_compare.render.labels import shorten_row_names
from runner_compare.render.quantities import effect_unit, find_quantity
from runner_compare.statistics import Decision, Finding

MAX_ROWS, MAX_WIDTH, MIN_WIDTH = 40, 61, 24  # width: of the plot, in characters
# a name is cut where the plot has less room, but not below so many characters
MIN_NAME, MIDDLE_WIDTH = 24, 41


@dataclass(frozen=True)
class PlotCharacters:
    """Characters of a terminal plot."""

    ends: str
    line: str
    point: str
    zero: str
    margin: str
    crossing: str  # where an interval crosses zero or the margin
    minus: str
    delta: str


UNICODE = PlotCharacters("├┤", "─", "●", "│", "┊", "┼", "−", "Δ")
ASCII = PlotCharacters("[]", "-", "o", "|", ":", "+", "-", "difference")
STYLES = {Finding.better: "green", Finding.worse: "red"}


def draw_forest_plot_lines(
    rows: Sequence[TableRow], keys: list[str], width: int, encoding: str | None
) -> list[tuple[str, str]]:
    """Return the lines of the plot with their styles; [] without comparisons or on a narrow terminal."""
    marks = UNICODE if (encoding or "utf-8").lower().replace("-", "").startswith("utf") else ASCII
    compared = [
        (row, effect)
        for row in rows
        if (effect := row.effect) and all(map(math.isfinite, effect.simultaneous_interval))
    ]
    units = dict.fromkeys(effect_unit(effect) for _, effect in compared)
    lines = []
    for unit in units:
        of_unit = [(row, effect) for row, effect in compared if effect_unit(effect) == unit]
        lines += _draw_forest_plot_for_unit(of_unit, keys, unit, width, marks)
    return lines


def _draw_forest_plot_for_unit(
    compared: list[tuple[TableRow, Decision]], keys: list[str], unit: str, width: int, marks: PlotCharacters
) -> list[tuple[str, str]]:
    shown = compared[:MAX_ROWS]
    longest = max(MIN_NAME, width - 2 - MIDDLE_WIDTH)
    names = [
        _truncate(escape_control_characters(name), longest)
        for name in shorten_row_names([row for row, _ in shown], keys, longest)
    ]
    if marks is ASCII:
        names = [name.encode("ascii", "replace").decode() for name in names]
    indent = max(map(len, names)) + 2
    plot_width = min(MAX_WIDTH, width - indent)
    if plot_width < MIN_WIDTH:
        return []
    effects = [effect for _, effect in shown]
    margins = sorted({-effect.margin for effect in effects if effect.margin is not None})
    lowest, highest = (
        min([0.0, *margins, *(effect.simultaneous_low for effect in effects)]),
        max(0.0, *(effect.simultaneous_high for effect in effects), 1e-12),
    )

    def to_column(value: float) -> int:
        return round((value - lowest) / (highest - lowest) * (plot_width - 1))

    cut = f", the first {len(shown)} of {len(compared)} rows" if len(shown) < len(compared) else ""
    explained = f"; {marks.margin} margin" if margins else ""
    level = interval_level(effects)
    kind = f"({level})" if level else "with intervals"
    title = f"{marks.delta} from the baseline in {unit} {kind}{cut}; {marks.zero} no difference{explained}"
    lines = [(title, "dim")]
    for name, effect in zip(names, effects, strict=True):
        lines.append(
            (
                f"{name:<{indent}}{_draw_forest_interval(effect, to_column, margins, plot_width, marks)}",
                STYLES.get(effect.finding, ""),
            )
        )
    lines.append(
        (
            " " * indent
            + _draw_axis_line([0.0, *margins, lowest, highest], to_column, plot_width, effects[0], marks),
            "dim",
        )
    )
    return [(line.rstrip(), style) for line, style in lines]


def _draw_forest_interval(
    effect: Decision,
    to_column: Callable[[float], int],
    margins: list[float],
    width: int,
    characters: PlotCharacters,
) -> str:
    cells = [" "] * width
    for value, mark in [*((margin, characters.margin) for margin in margins), (0.0, characters.zero)]:
        cells[to_column(value)] = mark
    first, last = map(to_column, effect.simultaneous_interval)
    for index in range(first, last + 1):
        cells[index] = characters.line if cells[index] == " " else characters.crossing
    if first < last:
        cells[first], cells[last] = characters.ends[0], characters.ends[1]
    cells[to_column(effect.value)] = characters.point
    return "".join(cells)


def _draw_axis_line(
    values: list[float],
    to_column: Callable[[float], int],
    width: int,
    effect: Decision,
    characters: PlotCharacters,
) -> str:
    cells = [" "] * width
    for value in dict.fromkeys(values):
        text = _format_axis_tick_value(value, effect).replace("−", characters.minus)
        start = min(max(0, to_column(value) - len(text) // 2), width - len(text))
        if all(cell == " " for cell in cells[max(0, start - 1) : start + len(text) + 1]):
            cells[start : start + len(text)] = text
    return "".join(cells)


def _format_axis_tick_value(value: float, effect: Decision) -> str:
    text = find_quantity(effect).write(value) if value else "0"
    number, point, fraction = text.partition(".")
    return f"{number}{point}{fraction}".rstrip("0").rstrip(".") if point else text


def _truncate(name: str, max_chars: int) -> str:
    return name if len(name) <= max_chars else f"{name[: max_chars - 3]}..."
