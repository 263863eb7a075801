"""How notes of an engine are worded."""

from __future__ import annotations

import pytest

from runner.render.engine_notes import format_memory_limited_batch_note
from runner_engine.sessions import SequenceShortage


@pytest.mark.parametrize(
    ("shortage", "note"),
    [
        (
            SequenceShortage(rows=3, asked_rows=12, kv_tokens=4_000),
            "memory limits the batch to 3 of 12 sequences. The free memory fits 4,000 tokens of KV cache",
        ),
        (SequenceShortage(rows=3, asked_rows=8), "memory limits the batch to 3 of 8 requested sequences"),
        (
            SequenceShortage(rows=4, asked_rows=8, ran_out=True),
            "memory ran out with 8 sequences in the batch. The batch is now limited to 4 sequences",
        ),
        (
            SequenceShortage(rows=16, asked_rows=0, ran_out=True),
            "memory ran out during the prefill of a shared prefix. The batch is now limited to 16 sequences",
        ),
    ],
)
def test_a_shortage_of_rows_is_worded(shortage: SequenceShortage, note: str) -> None:
    assert format_memory_limited_batch_note(shortage) == note
