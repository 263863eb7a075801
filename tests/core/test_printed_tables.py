"""Tables on a terminal: where words would be broken, the heads become lines, and each row a column
of whole numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from runner_base.printed_tables import print_table_fitted_to_terminal
from runner_base.tables import WORD, Column, ColumnUse, fit_table_to_width

STATISTICS = ["mean", "median", "90 %", "99.9 %", "largest", "ln(PPL\nratio)", "correlation", "same\nfirst"]
FIGURES = {
    "int8": "2.44e−05 [1.62e−05, 3.63e−05]",
    "nf4": "0.0011 [0.000687, 0.0017]",
    "fp4": "0.0143 – 0.846 [0.0098, 1.34]",
}


def table_of(rows: int) -> list[Column]:
    names = list(FIGURES)[:rows]
    cells = [FIGURES[name] for name in names]
    return [
        Column("quantization", names, False, use=ColumnUse.setting),
        *(Column(head, cells, use=ColumnUse.result) for head in STATISTICS),
    ]


def printed(columns: list[Column], width: int) -> list[str]:
    out = io.StringIO()
    terminal = Console(file=out, width=width, force_terminal=True, color_system=None)
    print_table_fitted_to_terminal(
        terminal, columns, "elsewhere", frame="SIMPLE", padding=(0, 1, 0, 0), show_edge=False
    )
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [50, 80, 100, 120, 200])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_no_number_and_no_word_is_broken(width: int, rows: int) -> None:
    lines = printed(table_of(rows), width)
    assert max(map(len, lines)) <= width
    for name in list(FIGURES)[:rows]:
        assert any(name in line.split() for line in lines), name
        for number in WORD.findall(FIGURES[name]):
            assert sum(line.count(number) for line in lines) == len(STATISTICS), (
                f"{number} stands in one line"
            )
    for word in ("correlation", "median", "quantization"):
        assert any(word in line for line in lines), word


def test_rows_without_room_follow_in_a_further_block() -> None:
    lines = printed(table_of(3), 80)
    heads = [line.split() for line in lines if line.startswith("quantization")]
    assert heads == [["quantization", "int8", "nf4"], ["quantization", "fp4"]]
    assert len(lines) == 2 * (2 + len(STATISTICS))


def test_a_table_with_room_is_not_turned() -> None:
    columns = [
        Column("quantization", ["int8", "nf4"], False, use=ColumnUse.setting),
        Column("n", ["1,000", "200"]),
    ]
    assert not fit_table_to_width(columns, 40).breaks_words
    assert printed(columns, 40)[0].split() == ["quantization", "n"]
    assert fit_table_to_width(table_of(2), 100).breaks_words


def test_cells_of_words_are_wrapped_before_anything_is_turned() -> None:
    columns = [
        Column("task", ["a", "b"], False, use=ColumnUse.setting),
        Column("state", ["waits for the job above", "done"], False, use=ColumnUse.result),
    ]
    assert not fit_table_to_width(columns, 20).breaks_words
    assert printed(columns, 20)[0].split() == ["task", "state"]


def test_what_all_rows_share_is_said_once_and_jobs_name_the_columns_of_a_turned_table() -> None:
    jobs = ["likelihood-434d73f7bdeb", "likelihood-b125edb7ad83"]
    columns = [*table_of(2)[1:], Column("job", jobs, False, use=ColumnUse.job), Column("n", ["200", "200"])]
    lines = printed(columns, 90)
    assert lines[0] == "in all rows: n = 200"
    assert lines[1].split() == ["job", *jobs]


def test_words_longer_than_the_terminal_are_broken_even_then() -> None:
    lines = printed(
        [Column("job", ["likelihood-434d73f7bdeb"], False, use=ColumnUse.job), Column("n", ["1"])], 14
    )
    assert max(map(len, lines)) <= 14
    assert "likelihood-434d73f7bdeb" in "".join("".join(lines).replace("job", "").split())
