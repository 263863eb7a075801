"""The table on terminals of any width: columns are left out and cells wrapped before a word or a
number is cut."""

from __future__ import annotations

import io
import re

import pytest
from compared import example, judge_example

from runner_compare.model.comparison import Comparison, View
from runner_compare.model.data import Table
from runner_compare.render.margins import UNDECIDED
from runner_compare.render.output import FORMATS
from runner_compare.render.short_table import build_row_label_columns


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


WHOLE = View(all_columns=True, plot=True)


def table_at(
    width: int, monkeypatch: pytest.MonkeyPatch, table: Table | None = None, view: View = WHOLE
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    FORMATS["table"](Comparison([table or example()], view), out)
    return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())  # bold and colours


@pytest.mark.parametrize("width", [120, 130, 140, 150, 165, 200])
def test_no_row_is_folded(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table_at(width, monkeypatch).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    row = next(line for line in lines if line.startswith("nf4 ") and " % [" in line)
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
        UNDECIDED,
        "hard5",
        "dominated",
    ):
        assert cell in words, cell
    assert not {"quantiz", "dominat", "undecid"} & {*words}
    assert "in all rows: task.split = hard5 · questions = 1,000 · weights MiB = 6.07" in text


def test_a_terminal_names_the_columns_it_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = table_at(220, monkeypatch), table_at(120, monkeypatch)
    assert "hidden columns" not in wide
    assert "hidden columns: new tokens, load s, " in narrow
    for head in ("on disk", "min. detectable", "dominated"):
        assert head in wide
    assert not [line for line in narrow.splitlines() if "tokens" in line and "hidden columns" not in line]


def test_paths_lose_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    table = example()
    folder = "/srv/checkpoints/of/a/study/with/a/long/name"
    for row, name in zip(table.rows, ("7b/none", "7b/int8", "13b/nf4"), strict=True):
        row.config = {"model.name": f"{folder}/{name}", "task.split": "hard5"}
    table.keys = ["model.name", "task.split"]
    text = table_at(100, monkeypatch, table)
    assert re.search(r"^…/13b/nf4 ", text, re.MULTILINE)
    assert f"…/7b/none means {folder}/7b/none" in " ".join(text.split())
    assert re.search(r"^…/13b/nf4 .*●", text, re.MULTILINE), "the plot names them, too"


def test_a_pipe_gets_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their use: settings, results, verdicts, costs; a pipe has no width."""
    monkeypatch.setenv("COLUMNS", "60")
    out = io.StringIO()
    FORMATS["table"](Comparison([example()], WHOLE), out)
    row = next(line for line in out.getvalue().splitlines() if line.startswith("nf4 ") and " % [" in line)
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


def lines_in_a_pipe(table: Table, view: View | None = None) -> list[str]:
    out = io.StringIO()
    FORMATS["table"](Comparison([table], view or View()), out)
    return out.getvalue().splitlines()


def test_by_default_a_pipe_gets_the_answer_and_one_table_of_100_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = example()
    judge_example(table.rows, {"accuracy": 0.02})
    lines = lines_in_a_pipe(table)
    assert max(map(len, lines)) <= 100
    assert lines[0] == "task=gsm8k · 3 runs · 1,000 questions each · baseline quantization=none"
    assert lines[1] == "margin 2 points of accuracy"
    assert lines[2].startswith(f"nf4 is worse by more than 2 points. int8 is {UNDECIDED}: ")
    head = next(number for number, line in enumerate(lines) if line.startswith("quantization"))
    rows = [line.split() for line in lines[head + 2 : head + 5]]
    assert [line.split() for line in lines[head - 2 : head]] == [
        ["more", "weights"],
        ["questions", "+KV+act", "decode"],
    ]
    assert lines[head].split() == [
        *("quantization", "accuracy", "[95", "%]", "points", "vs", "none", "[95", "%]"),
        *("verdict", "needed", "MiB", "tok/s"),
    ]
    assert rows[0][-3:] == ["baseline", "843", "21.2k"]
    assert rows[2] == [
        *("nf4", "41.1", "%", "[38.1,", "44.2]", "−8.9", "[−11.8,", "−6.6]", "worse", "by", ">", "2"),
        *("933", "21.1k"),
    ]
    assert not {"p", "Holm", "Pareto"} & {*lines[head].split()}
    assert lines[-1] == "Details: --explain · --columns all · --plot · --save DIR"


@pytest.mark.parametrize("width", [80, 100, 130])
def test_long_labels_cost_the_least_important_columns_and_never_the_verdict(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = example()
    judge_example(table.rows, {"accuracy": 0.02})
    for row in table.rows:
        row.config = {"model.name": f"/srv/{row.run.job_id}/a-long-name-of-a-model", "task.split": "hard5"}
    table.keys, table.baseline = ["model.name", "task.split"], {"model.name": "none"}
    text = table_at(width, monkeypatch, table, View())
    assert max(len(line) for line in text.splitlines() if not line.startswith(" ")) <= width
    assert "verdict" in text
    assert "worse by > 2" in " ".join(text.split())


def test_a_repeated_label_is_printed_once_and_the_outer_key_comes_first() -> None:
    table = example()
    for row, split in zip(table.rows, ("hard5", "hard5", "test"), strict=True):
        row.config = row.config | {"task.split": split}
    columns = build_row_label_columns(table)
    assert [column.head for column in columns] == ["split", "quantization"]
    assert [column.cells for column in columns] == [["hard5", "", "test"], ["none", "int8", "nf4"]]


def test_an_explanation_and_the_plot_are_shown_on_request() -> None:
    def shown(view: View) -> str:
        return "\n".join(lines_in_a_pipe(example(), view))

    assert "●" not in shown(View())
    assert "●" in shown(View(plot=True))
    assert "Holm" not in shown(View())
    explained = shown(View(explain=True))
    assert "Holm is the p-value" in explained
    assert max(map(len, explained.splitlines())) <= 100
    assert max(map(len, lines_in_a_pipe(example(), View(all_columns=True)))) > 100
