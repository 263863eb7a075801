"""Columns are wrapped in time that grows with their text, to what narrowing by steps gives."""

from __future__ import annotations

import random
import re
import time

import pytest
from stepwise_wrapping import PART_OF_HEAD, PART_OF_SETTING, WORD, lines_by_steps, wrap_by_steps

from runner_base import tables
from runner_base.tables import Column, ColumnUse, column_width, fit_table_to_width, wrap_columns

LETTERS = [
    [*"abcdef"],
    [*"ab /_.,:=-[]%≥+−0123456789"],
    [*"a\n  [] %"],
    [*"日本語ab é"],
    ["👩\u200d👩\u200d👧", "❤\ufe0f", "🇩🇪", "e\u0301", " ", "a", "_"],
    [*"[ "],
    [*"[."],
    [*"[]._/ "],
]
SECONDS = 10  # the former wrapping took 88 s for an id of 16,000 letters, beside other work


def draw_text(chance: random.Random) -> str:
    of = chance.choice(LETTERS)
    length = chance.choice([0, 1, 3, 10, 30, 80])
    return "".join(
        chance.choice(chance.choice(LETTERS) if chance.random() < 0.3 else of) for _ in range(length)
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", range(8))
def test_random_tables_are_wrapped_as_by_steps(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        rows = chance.randint(1, 4)
        columns = [
            Column(draw_text(chance), [draw_text(chance) for _ in range(rows)], use=chance.choice([*ColumnUse]))
            for _ in range(chance.randint(1, 6))
        ]  # fmt: skip
        room, most_lines = chance.randint(1, 200), chance.choice([None, 1, 2, 3])
        assert wrap_columns(columns, room, most_lines) == wrap_by_steps(columns, room, most_lines)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(tables.WORD, WORD), (tables.PART_OF_HEAD, PART_OF_HEAD), (tables.PART_OF_SETTING, PART_OF_SETTING)],
)
def test_random_texts_have_the_same_lines(ours: re.Pattern[str], theirs: re.Pattern[str]) -> None:
    chance = random.Random(1)
    for _ in range(400):
        text, width = draw_text(chance), chance.randint(1, 40)
        assert tables._wrap_text(text, width, ours) == lines_by_steps(text, width, theirs)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "日" * 10_000,
        "[" * 100_000,
        "[ " * 50_000,
        "[." * 50_000,
        "a b " * 20_000,
        "é b " * 5_000,
        "/" * 50_000 + " a",
        "❤\ufe0f" * 5_000,
    ],
    ids=lambda text: repr(text[:4]),
)
@pytest.mark.parametrize("use", [ColumnUse.setting, ColumnUse.job])
def test_a_long_cell_is_wrapped_in_seconds(text: str, use: ColumnUse) -> None:
    columns = [Column("head", [text, "b"], use=use), Column(text[:2_000], ["1", "2"], use=use)]
    started = time.process_time()
    assert sum(2 + column_width(column) for column in fit_table_to_width(columns, 80).columns) <= 80
    assert time.process_time() - started < SECONDS


def test_a_letter_of_two_characters_has_no_column_of_one() -> None:
    assert wrap_columns([Column("日", ["日本"])], 1, None) is None
