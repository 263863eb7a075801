"""Tables at any width: what all rows share is said once, columns are in the order of their use,
words stay whole."""

from __future__ import annotations

import pytest

from runner_base.tables import Column, ColumnUse, FittedTable, fit_table_to_width, shorten_paths


def lines_of(table: FittedTable) -> list[str]:
    return [line for it in table.columns for text in (it.head, *it.cells) for line in text.split("\n")]


def width_of(table: FittedTable, gap: int = 2) -> int:
    longest = (
        max(len(line) for text in (it.head, *it.cells) for line in text.split("\n")) for it in table.columns
    )
    return sum(gap + one for one in longest)


COLUMNS = [
    Column("job", ["gsm8k-0123456789ab", "gsm8k-ba9876543210"], False, use=ColumnUse.job),
    Column("n", ["500", "500"]),
    Column("accuracy", ["94.6 % [92.3, 96.3]", "87.6 % [84.4, 90.2]"], use=ColumnUse.result),
    Column("new tokens", ["16,587", "16,583"], drop_order=1),
    Column("decode\ntok/s", ["16,909", "16,192"], use=ColumnUse.speed),
    Column("finding", ["no difference shown", "worse"], False, use=ColumnUse.verdict),
    Column("generation.max_new_tokens", ["64", "128"], False, use=ColumnUse.setting),
]


def test_columns_are_in_the_order_of_their_use_and_equal_cells_in_the_caption() -> None:
    table = fit_table_to_width(COLUMNS, 200)
    assert [it.head.split()[0] for it in table.columns] == [
        *("generation.max_new_tokens", "accuracy", "finding", "decode", "new", "job")
    ]
    assert (table.caption, table.left_out) == (["n = 500"], [])


@pytest.mark.parametrize("width", range(75, 130, 5))
def test_a_narrow_table_fits_with_whole_words_and_verdicts(width: int) -> None:
    table = fit_table_to_width(COLUMNS, width)
    assert width_of(table) <= width
    lines = lines_of(table)
    for word in ("[92.3, 96.3]", "difference", "gsm8k-ba9876543210"):
        assert any(word in line for line in lines), word
    assert {it.use for it in table.columns} >= {
        ColumnUse.setting,
        ColumnUse.result,
        ColumnUse.verdict,
        ColumnUse.job,
    }
    assert len(table.columns) + len(table.left_out) + len(table.caption) == len(COLUMNS)


def test_what_few_need_is_left_out_before_cells_are_wrapped() -> None:
    table = fit_table_to_width(COLUMNS, 102)
    assert table.left_out == ["new tokens"]
    assert "no difference shown" in lines_of(table)


def test_words_are_broken_only_where_nothing_else_is_left() -> None:
    table = fit_table_to_width(COLUMNS, 30)
    assert width_of(table) <= 30
    assert "".join(table.columns[-1].cells).replace("\n", "") == "gsm8k-0123456789abgsm8k-ba9876543210"
    assert table.left_out == ["new tokens", "decode tok/s"]


def test_a_column_has_another_form_where_there_is_little_room() -> None:
    narrow = Column("margin\n2 points", ["no larger loss", "worse by more"], False)
    column = Column("margin", ["no loss above 2 points", "worse by more than 2 points"], False, narrow=narrow)
    assert fit_table_to_width([column], 40).columns[0].cells == column.cells
    assert fit_table_to_width([column], 20).columns[0].cells == narrow.cells


def test_rows_that_share_everything_keep_their_columns() -> None:
    assert len(fit_table_to_width([Column("n", ["1", "1"])], 80).columns) == 1


def test_paths_are_shortened_to_what_differs() -> None:
    assert shorten_paths(["/a/b/x", "/a/b/y/z"]) == ["…/x", "…/y/z"]
    assert shorten_paths(["/a/b/7/model", "/a/b/8/model"]) == ["…/7/…", "…/8/…"]
    assert shorten_paths(["embedded", "/long/way/to/model"]) == ["embedded", "…/model"]
    assert shorten_paths(["org/a", "other/b"]) == ["org/a", "other/b"]
    assert shorten_paths(["a sentence with and/or", "no path"]) == ["a sentence with and/or", "no path"]
    values = ["/m/a/q/1", "/m/b/q/1", "/m/b/r/1", "x"]
    assert len({*shorten_paths(values)}) == len(values)


def test_control_characters_are_shown() -> None:
    assert fit_table_to_width([Column("a", ["\x1b[31m", "b"])], 80).columns[0].cells[0] == "\\x1b[31m"
