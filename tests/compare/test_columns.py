"""The table on terminals of any width: columns are dropped before a number is cut."""

from __future__ import annotations

import io
import re

import pytest

from runner.compare.data import Run, Table, TableRow
from runner.compare.front import mark_front
from runner.compare.output import FORMATS
from runner.core.effects import judge, paired_accuracies


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def example() -> Table:
    """A baseline and two rows compared with it, as wide as tables get."""
    rows = []
    for name, wins, losses in (("none", 0, 0), ("int8", 10, 20), ("nf4", 1, 90)):
        metrics = {"n": 1000.0, "correct": 500.0 + wins - losses, "weight_mib": 6.07, "stored_mib": 3.0, "load_s": 1.5}
        metrics |= {"model_mib": 843.0 + losses, "decode_tok_per_s": 21228.0 - losses, "new_tokens": 34898.0}
        run = Run(name, name, "gsm8k", "1", "", {}, metrics)
        row = TableRow(run, {"quantization.name": name, "task.split": "hard5"})
        row.is_baseline = name == "none"
        row.effects = [] if row.is_baseline else [paired_accuracies(wins, losses, 1000)]
        rows.append(row)
    judge(it for row in rows for it in row.effects)
    table = Table("gsm8k", ["quantization.name", "task.split"], rows, {"quantization.name": "none"})
    mark_front(table)
    return table


def table_at(width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    FORMATS["table"]([example()], out)
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())  # bold and colours


@pytest.mark.parametrize("width", [120, 130, 140, 150, 165, 200])
def test_no_row_is_folded(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table_at(width, monkeypatch).splitlines()
    assert max(len(line.rstrip()) for line in lines[:6]) <= width
    row = next(line for line in lines if line.startswith("nf4"))
    for cell in ("41.1 % [38.1, 44.2]", "−8.9 [", "1/90/909", "933", "21,138"):
        assert cell in row


def test_a_terminal_names_the_columns_it_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = table_at(220, monkeypatch), table_at(130, monkeypatch)
    assert "no room" not in wide
    assert "no room for: new tokens, load s, " in narrow
    for head in ("weights", "min. detectable", "dominated"):
        assert head in wide
    assert "tokens" not in narrow.splitlines()[1] + narrow.splitlines()[2]


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = io.StringIO()
    FORMATS["table"]([example()], out)
    row = next(line for line in out.getvalue().splitlines() if line.startswith("nf4"))
    assert row.split()[-3:] == ["1.5", "34,898", "dominated"]
