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
            "the batch is limited to 3 sequences (12 requested): memory has room for 4,000 tokens of KV "
            "cache",
        ),
        (
            SequenceShortage(rows=3, asked_rows=8),
            "the batch is limited to 3 sequences (8 would be possible): memory has room for no more",
        ),
        (
            SequenceShortage(rows=4, asked_rows=8, ran_out=True),
            "memory ran out with 8 sequences in the batch: the batch is limited to 4 sequences from now on",
        ),
        (
            SequenceShortage(rows=16, asked_rows=0, ran_out=True),
            "memory ran out during the prefill of a shared prefix: the batch is limited to 16 sequences "
            "from now on",
        ),
    ],
)
def test_a_shortage_of_rows_is_worded(shortage: SequenceShortage, note: str) -> None:
    assert shortage_note(shortage) == note
