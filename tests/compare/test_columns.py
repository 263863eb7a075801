"""The table on terminals of any width: columns are left out and cells wrapped before a word or a
number is cut."""

from __future__ import annotations

import io
import re

import pytest
from compared import example, judge_example

from runner_compare.model.comparison import Comparison
from runner_compare.model.data import Table
from runner_compare.render.output import FORMATS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def table_at(width: int, monkeypatch: pytest.MonkeyPatch, table: Table | None = None) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    FORMATS["table"](Comparison([table or example()]), out)
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())  # bold and colours


@pytest.mark.parametrize("width", [120, 130, 140, 150, 165, 200])
def test_no_row_is_folded(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table_at(width, monkeypatch).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    row = next(line for line in lines if line.startswith("nf4"))
    for cell in ("41.1 % [38.1, 44.2]", "−8.9 [", "1/90/909", "933", "21,138"):
        assert cell in row


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_shows_whole_words_and_every_verdict(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The differences, what decides about them and the front are there; no number and no word is
    cut."""
    table = example()
    judge_example(table.rows, {"accuracy": 0.02})
    text = table_at(width, monkeypatch, table)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    words = text.split()
    for cell in (
        "quantization",
        "[38.1,",
        "44.2]",
        "−8.9",
        "<0.0001",
        "worse",
        "undecided",
        "hard5",
        "dominated",
    ):
        assert cell in words, cell
    assert not {"quantiz", "dominat", "undecid"} & {*words}
    assert "all rows: task.split hard5 · n 1,000 · weights MiB 6.07" in text


def test_a_terminal_names_the_columns_it_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = table_at(220, monkeypatch), table_at(120, monkeypatch)
    assert "no room" not in wide
    assert "no room for: new tokens, load s, " in narrow
    for head in ("on disk", "min. detectable", "dominated"):
        assert head in wide
    assert "tokens" not in narrow.splitlines()[2] + narrow.splitlines()[3]


def test_paths_lose_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    table = example()
    folder = "/srv/checkpoints/of/a/study/with/a/long/name"
    for row, name in zip(table.rows, ("7b/none", "7b/int8", "13b/nf4"), strict=True):
        row.config = {"model.name": f"{folder}/{name}", "task.split": "hard5"}
    table.keys = ["model.name", "task.split"]
    text = table_at(100, monkeypatch, table)
    assert re.search(r"^…/13b/nf4 ", text, re.MULTILINE)
    assert f"model …/7b/none is {folder}/7b/none" in " ".join(text.split())
    assert re.search(r"^…/13b/nf4 .*●", text, re.MULTILINE), "the plot names them, too"


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their use: settings, results, verdicts, costs; a pipe has no width."""
    monkeypatch.setenv("COLUMNS", "60")
    out = io.StringIO()
    FORMATS["table"](Comparison([example()]), out)
    row = next(line for line in out.getvalue().splitlines() if line.startswith("nf4"))
    cells = [
        "nf4",
        "41.1",
        "%",
        "[38.1,",
        "44.2]",
        "−8.9",
        "[−11.8,",
        "−6.6]",
        "<0.0001",
        "dominated",
        "933",
        "21,138",
    ]
    assert row.split() == [*cells, "<0.0001", "1/90/909", "3.6", "4", "2.5", "34,988"]
