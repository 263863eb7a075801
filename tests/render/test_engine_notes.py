"""How notes of an engine are worded."""

from __future__ import annotations

import pytest

from runner.render.engine_notes import shortage_note
from runner_engine.sessions import SequenceShortage


@pytest.mark.parametrize(
    ("shortage", "note"),
    [
        (
            SequenceShortage(rows=3, asked_rows=12, kv_tokens=4_000),
            "memory has room for 4,000 tokens of keys and values: 3 rows at once, 12 were asked for",
        ),
        (
            SequenceShortage(rows=3, asked_rows=8),
            "memory has room for 3 rows at once, where 8 would go together",
        ),
        (
            SequenceShortage(rows=4, asked_rows=8, ran_out=True),
            "memory ran out with 8 rows at once: 4 concurrent rows from now on",
        ),
        (
            SequenceShortage(rows=16, asked_rows=0, ran_out=True),
            "memory ran out while a shared prefix was read: 16 concurrent rows from now on",
        ),
    ],
)
def test_a_shortage_of_rows_is_worded(shortage: SequenceShortage, note: str) -> None:
    assert shortage_note(shortage) == note
