"""Commands, outputs and tables of pages; an excerpt gets the lines of today in the places of its
own."""

from __future__ import annotations

import pytest

from tools import shown

NOW = [
    "model=stub",
    "",
    "  accuracy   93.5%",
    "  verdicts   187 correct",
    "  job   a-1",
    "",
    "note: all is well",
]


@pytest.mark.parametrize(
    ("old", "now"),
    [
        (["model=stub", "", "  accuracy   9.0%", "…"], ["model=stub", "", "  accuracy   93.5%", "…"]),
        (["…", "  job   b-22", "…"], ["…", "  job   a-1", "…"]),
        (["…", "note: all is good"], ["…", "note: all is well"]),
        (["another beginning", "…", "another end"], ["model=stub", "…", "note: all is well"]),
        (
            ["model=stub", "…", "  verdicts   0 correct", "…"],
            ["model=stub", "…", "  verdicts   187 correct", "…"],
        ),
    ],
)
def test_an_excerpt_is_renewed_in_its_places(old: list[str], now: list[str]) -> None:
    assert shown.renewed_excerpt(old, NOW) == now


# a part of the middle, without `…` after it
MISPLACED = ["…", "  accuracy   9.0%", "  verdicts   18 correct"]


@pytest.mark.parametrize("old", [["…", "zzz", "…"], ["more lines", *NOW, "…"], MISPLACED])
def test_an_excerpt_of_something_else_is_not(old: list[str]) -> None:
    assert shown.renewed_excerpt(old, NOW) is None


def test_a_long_line_is_cut_where_the_page_cuts_it() -> None:
    assert shown.renewed_excerpt(
        ["error: no key. Choices: a, b, …"], ["error: no key. Choices: a, bb, c, d"]
    ) == ["error: no key. Choices: a, bb, …"]


def test_a_missing_row_is_seen() -> None:
    lines = [
        "model=stub  quantization=none  lora=none  rope=native  generation=greedy  task=gsm8k",
        "",
        "  n   3",
        "",
    ]
    (table,) = shown.tables(lines)
    assert table == shown.Table("gsm8k by the stub", ["n"])


def test_a_column_that_all_rows_share_may_stand_above_the_table() -> None:
    table = shown.Table("comparison", ["accuracy", "MiB", "tok/s", "MiB", "tokens"])
    assert table.names_without("n = 200 · weights MiB = 1.92 · new tokens = 16") == [
        "accuracy",
        "MiB",
        "tok/s",
    ]
    assert table.names_without("") == table.names
