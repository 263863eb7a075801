"""The forest plot of a terminal: marks in their columns, in the terminal's own characters and
width."""

from __future__ import annotations

import io
import re

import pytest
from compared import KEYS, rows_of

from runner_compare.model.comparison import Comparison, View
from runner_compare.model.data import Table
from runner_compare.render.forest import draw_forest_plot_lines
from runner_compare.render.output import FORMATS
from runner_compare.statistics import McNemarTest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plot(width: int = 80, encoding: str | None = "utf-8", margin: float | None = None) -> list[str]:
    margins = {} if margin is None else {"accuracy": margin}
    rows = rows_of(McNemarTest(10, 20, 1000), McNemarTest(1, 90, 1000), margins=margins)
    return [line for line, _ in draw_forest_plot_lines(rows, KEYS, width, encoding)]


def test_each_row_has_its_interval_with_zero_and_the_margin_in_one_column() -> None:
    title, first, second, scale = plot(margin=0.02)
    assert title == ("Δ from the baseline in points (simultaneous 95 %); │ no difference; ┊ margin")
    assert first.startswith("q0  ")
    assert first[first.index("├") : first.index("┤") + 1].count("●") == 1
    assert "┼" in first, "its interval contains the margin"
    zero, margin = second.index("│"), second.index("┊")
    assert (first[zero], first[margin]) in {("┼", "┼"), ("┤", "┼"), ("│", "┼")}
    assert second.index("├") < second.index("●") < second.index("┤") < margin < zero
    assert scale.split() == ["−11.8", "−2", "0"]
    assert scale[margin - 1 : margin + 1] in ("−2", " −"), "the margin's number is below its line"


def test_a_terminal_without_utf_8_gets_ascii() -> None:
    lines = plot(encoding="latin-1", margin=0.02)
    assert all(line.isascii() for line in lines)
    assert (
        lines[2].index("[")
        < lines[2].index("o")
        < lines[2].index("]")
        < lines[2].index(":")
        < lines[2].index("|")
    )


@pytest.mark.parametrize("width", [30, 48, 80, 200])
def test_it_keeps_to_the_width(width: int) -> None:
    assert max(map(len, plot(width)[1:])) <= width


def test_a_narrow_terminal_and_rows_without_a_comparison_have_none() -> None:
    assert plot(20) == []
    assert draw_forest_plot_lines(rows_of("not compared"), KEYS, 200, None) == []


@pytest.mark.parametrize("out", [Terminal(), io.StringIO()], ids=["terminal", "pipe"])
def test_it_stands_between_the_table_and_the_sentences(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    table = Table("gsm8k", KEYS, rows_of(McNemarTest(1, 90, 1000)), {KEYS[0]: "none"})
    FORMATS["table"](Comparison([table], View(explain=True, plot=True)), out)
    text = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())  # without the styles of a terminal
    assert text.index("\nquantization") < text.index("├") < text.index("• q0 vs none")
