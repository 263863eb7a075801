"""Prints and plots the verdicts of all nights of a gate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runner_base import Column, ColumnUse, escape_control_characters
from runner_base.console import create_console
from runner_base.drawing import BAD, GOOD, INK, LINE, MUTED
from runner_base.printed_tables import print_table_fitted_to_terminal
from runner_compare.model.data import ABSENT
from runner_compare.options import WIDTH
from runner_compare.release_gate.history import Night
from runner_compare.release_gate.verdicts import GateVerdict
from runner_compare.render.quantities import format_percentage_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {GateVerdict.go: GOOD, GateVerdict.no_go: BAD}  # all others: MUTED
HINT = "--save nights.png draws all candidates"


def print_nightly_gate_reports(nights: Sequence[Night]) -> None:
    """Print a table with one line per night and one column per candidate."""
    columns = [
        Column("night", [str(night.night) for night in nights], use=ColumnUse.setting),
        Column(
            "time (UTC)",
            [night.time[:16].replace("T", " ") for night in nights],
            False,
            use=ColumnUse.setting,
        ),
        Column("verdict", [night.report["verdict"] for night in nights], False, use=ColumnUse.verdict),
    ]
    columns += [
        Column(
            escape_control_characters(name),
            [_format_cell(_find_candidate(night, name)) for night in nights],
            False,
            use=ColumnUse.difference,
        )
        for name in _list_candidates(nights)
    ]
    print_table_fitted_to_terminal(create_console(non_terminal_width=WIDTH), columns, HINT, captions=False)


def _list_candidates(nights: Sequence[Night]) -> list[str]:
    return [*dict.fromkeys(candidate["name"] for night in nights for candidate in night.report["candidates"])]


def _find_candidate(night: Night, name: str) -> dict[str, Any] | None:
    return next((found for found in night.report["candidates"] if found["name"] == name), None)


def _find_difference(candidate: dict[str, Any]) -> dict[str, Any] | None:
    """Return a candidate's first accuracy check; None if accuracy was not checked."""
    return next((check for check in candidate["checks"] if check.get("measure") == "accuracy"), None)


def _format_cell(candidate: dict[str, Any] | None) -> str:
    if candidate is None:
        return ABSENT
    check = _find_difference(candidate)
    if check is None:
        return str(candidate["verdict"])
    low, high = map(format_percentage_points, (check["low"], check["high"]))
    return f"{candidate['verdict']} {format_percentage_points(check['value'])} [{low}, {high}]"


def draw_nightly_gate_differences(nights: Sequence[Night]) -> Figure:
    """Plot each candidate's difference from the baseline, with its interval, by night."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = _list_candidates(nights)
    figure = Figure(figsize=(max(5.0, 0.35 * len(nights) + 2), 1.7 * len(names) + 0.6), layout="constrained")
    panes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for pane, name in zip(panes, names, strict=True):
        pane.set_title(escape_control_characters(name).replace("$", r"\$"), loc="left", color=INK)
        pane.axhline(0, color=LINE, linewidth=1)
        for place, (night, later) in enumerate(pairwise(nights), 1):
            if night.baseline_id != later.baseline_id:  # another baseline from here on
                pane.axvline(place + 0.5, color=INK, linewidth=1)
        margins = set()
        for place, night in enumerate(nights, 1):
            candidate = _find_candidate(night, name)
            check = None if candidate is None else _find_difference(candidate)
            if candidate is not None and check is None:
                colour = COLOURS.get(GateVerdict(candidate["verdict"]), MUTED)
                pane.plot([place], [0], "x", color=colour, markersize=6)
            if candidate is None or check is None:
                continue
            value, low, high = (100 * check[key] for key in ("value", "low", "high"))
            colour = COLOURS.get(GateVerdict(candidate["verdict"]), MUTED)
            pane.plot([place, place], [low, high], color=colour, linewidth=2)
            pane.plot([place], [value], "o", color=colour, markersize=4)
            margins.add(-100 * check["margin"])
        for margin in margins:
            pane.axhline(margin, color=BAD, linewidth=1, linestyle=":")
        pane.set_ylabel("points")
        for side in ("top", "right"):
            pane.spines[side].set_visible(False)
    panes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panes[-1].set_xlabel("night")
    key = "green: GO · red: NO-GO · grey: ASK · ×: no result\ndotted: margin · vertical: another baseline"
    figure.suptitle(key, fontsize=7, color=MUTED)
    return figure
